"""Conditions on data where there is no data: each outcome is taken in turn.

``Explorer.runs`` gives one mode after another, each to be entered around one run of the same
program on tensors without data. Under the mode every condition on such a tensor (``if``, ``while``,
``and``, ``torch.equal``, ...) takes the outcome that its place has taken least, until every place
that was reached has taken both, or after ``limit`` runs. An outcome that raises is avoided as long
as no run has passed. Where more than a truth value is needed (``.item()``, a mask), ``DataNeeded``
is raised and names the line.

A *place* is the chain of calls from the run to the condition, by file, line and instruction, and by
the module (its path) whose method runs. A function that calls itself adds no new places, and a
place that is asked again and again in one run answers by lot, so that every loop ends.
"""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, TypeVar

import torch
from torch import nn, overrides
from torch.overrides import TorchFunctionMode

from chimera.paths.walk import first_paths

Run = TypeVar("Run", bound=Callable[..., Any])

LIMIT = 64
_PATIENCE = 32
_AVOIDING = 16
ENDLESS = 10_000
"""A run that asks as many conditions or numbers of data is taken for one without an end."""

_TORCH = os.path.dirname(torch.__file__) + os.sep
CONDITIONS = {
    torch.Tensor.__bool__,
    torch.Tensor.__contains__,
    torch.Tensor.is_nonzero,
    torch.Tensor.equal,
    torch.Tensor.allclose,
    torch.is_nonzero,
    torch.equal,
    torch.allclose,
}
NUMBERS: dict[Any, str] = {
    torch.Tensor.item: ".item()",
    torch.Tensor.__int__: "int()",
    torch.Tensor.__float__: "float()",
    torch.Tensor.__complex__: "complex()",
    torch.Tensor.__index__: "an index",
    torch.Tensor.__format__: "a format",
    torch.Tensor.tolist: ".tolist()",
    torch.Tensor.numpy: ".numpy()",
    torch.Tensor.__array__: "a NumPy array",
}


class DataNeeded(RuntimeError):
    """A run without data came to a line that needs the data, not only shapes."""


class DidNotEnd(RuntimeError):
    """A run on trial went on without an end."""

    def __init__(self, after: str, file: str, line: int) -> None:
        self.file, self.line = file, line
        super().__init__(f"it did not end after {after}; the last was asked at {file}:{line}")


@dataclass(frozen=True)
class Condition:
    """Where a condition on data stands."""

    file: str
    line: int
    path: str | None
    """The path of the innermost module whose method was running."""


class Explorer:
    """Which outcomes of which conditions were taken, over several runs of one program."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.conditions: dict[Hashable, Condition] = {}
        self._taken: dict[Hashable, Counter[bool]] = {}
        self._raised: Counter[tuple[Hashable, bool]] = Counter()
        self._passed = False
        self._by_lot = False

    def runs(self, wanted: Callable[[], int] = lambda: 0) -> Iterator["Exploring"]:
        """Modes for runs to come, at least one and at most ``limit``.

        After each run that ended without an error, its mode's ``passed()`` is to be called.

        Args:
            wanted: how many runs by lot are worth trying, once every outcome was taken. (A place
                that a loop comes to again and again takes its outcomes in turn, and may so never
                take one of them in a certain turn of the loop.)
        """
        more = 0
        for _ in range(self.limit):
            mode = Exploring(self)
            yield mode
            if not self._taken:
                return
            if not mode.has_passed and mode.last is not None:
                self._raised[mode.last] += 1
            self._passed |= mode.has_passed
            if self.complete:
                more += 1
                self._by_lot = self._passed
                if more > (wanted() if self._passed else _AVOIDING):
                    return

    @property
    def complete(self) -> bool:
        """Whether every condition that was reached has taken both outcomes."""
        return all(len(taken) == 2 for taken in self._taken.values())

    def decide(self, place: Hashable, asked: int) -> bool:
        """The outcome for a condition that is asked for the ``asked``-th time in one run."""
        taken = self._taken.setdefault(place, Counter())
        known_to_raise = self._raised[place, True] - self._raised[place, False]
        if len(taken) == 2 and not self._passed and known_to_raise and asked <= _PATIENCE:
            outcome = known_to_raise < 0
        elif self._by_lot or asked > _PATIENCE:
            text = f"{list(self._taken).index(place)}:{asked}:{taken.total()}"
            outcome = hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 2 == 0
        else:
            outcome = taken[True] <= taken[False]
        taken[outcome] += 1
        return outcome


class Exploring(TorchFunctionMode):
    """The mode of one run; ``root`` and ``hidden`` are to be set before it is entered."""

    def __init__(self, explorer: Explorer) -> None:
        super().__init__()
        self.root: nn.Module | None = None
        self.hidden: Callable[[torch.Tensor], bool] = lambda tensor: tensor.is_meta
        """Whether a tensor's data is not there."""
        self.last: tuple[Hashable, bool] | None = None
        """The place and outcome of the last condition."""
        self.has_passed = False
        self.reads_values = False
        """Whether a condition or a number was read from a tensor that has data."""
        self._explorer = explorer
        self._asked: Counter[Hashable] = Counter()
        self._told: dict[int, tuple[torch.Tensor, int, bool]] = {}
        """What each tensor was taken for, with its version."""
        self._known = 0
        self._paths: dict[int, str] | None = None

    def passed(self) -> None:
        """The run ended without an error."""
        self.has_passed = True

    def asked(self) -> int:
        """How many conditions on data were asked."""
        return self._asked.total()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in CONDITIONS or func in NUMBERS:
            if not self._any_hidden(args, named):
                self.reads_values = True
                self._known += 1
                if self._known > ENDLESS:
                    raise DidNotEnd(f"{ENDLESS:,} conditions or numbers of data", *where())
            elif func in CONDITIONS:
                return self._decide(func, args, named)
            else:
                raise DataNeeded(_message(NUMBERS[func]))
        return called(func, args, named)

    def _any_hidden(self, args: tuple[Any, ...], named: dict[str, Any]) -> bool:
        return any(
            isinstance(value, torch.Tensor) and self.hidden(value)
            for value in (*args, *named.values())
        )

    def _decide(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> bool:
        alone: torch.Tensor | None = None
        if func in (torch.Tensor.__bool__, torch.Tensor.is_nonzero, torch.is_nonzero):
            if args[0].numel() != 1:
                return bool(func(*args, **named))
            alone = args[0]
            told = self._told.get(id(alone))
            if told is not None and told[1] == _version(alone):
                return told[2]  # `a and b` hands on what it has asked
        elif func in (torch.equal, torch.Tensor.equal) and args[0].shape != args[1].shape:
            return False
        place, condition = self._place()
        self._explorer.conditions.setdefault(place, condition)
        self._asked[place] += 1
        if self.asked() > ENDLESS:
            asked = f"{ENDLESS:,} conditions of data"
            raise DidNotEnd(asked, condition.file, condition.line)
        outcome = self._explorer.decide(place, self._asked[place])
        self.last = place, outcome
        if alone is not None:
            self._told[id(alone)] = alone, _version(alone), outcome
        return outcome

    def _place(self) -> tuple[Hashable, Condition]:
        if self._paths is None:
            root = self.root
            found = first_paths(root) if root is not None else {}
            self._paths = {id(module): path for module, path in found.items()}
        chain: dict[Hashable, None] = {}
        condition: Condition | None = None
        frames = list(_frames())
        for frame in [frame for frame in frames if not _of_torch(frame)] or frames:
            path = self._paths.get(id(frame.f_locals.get("self")))
            code = frame.f_code
            if condition is None:
                condition = Condition(code.co_filename, frame.f_lineno, path)
            chain[code.co_filename, code.co_name, frame.f_lineno, frame.f_lasti, path] = None
        assert condition is not None
        return tuple(chain), condition


def _version(tensor: torch.Tensor) -> int:
    """What changes when the tensor is written to, where torch counts that."""
    return 0 if tensor.is_inference() else tensor._version


def called(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``func(*args, **kwargs)``, where an error for want of data is a ``DataNeeded``."""
    try:
        return func(*args, **kwargs)
    except DataNeeded:
        raise
    except (RuntimeError, TypeError) as error:
        if not any(sign in str(error) for sign in _SIGNS):
            raise
        raise DataNeeded(_message(getattr(func, "__name__", repr(func)))) from error


_SIGNS = (
    "on meta tensors",
    "Cannot copy out of meta tensor",
    "meta device type tensor",
    "with Meta tensors",
    "register_meta function",
    "a meta tensor without",
    "but got 1D meta",
)
"""What torch says where a tensor without data cannot give what is asked."""


def _message(what: str) -> str:
    file, line = where()
    return (
        f"{file}:{line} needs the data of a tensor ({what}), and shapes alone cannot tell it; "
        "give real tensors: example=..."
    )


def boundary(function: Run) -> Run:
    """Mark a function that runs a program: its frame, and those above it, are not the program's."""
    marked: Any = function
    _BOUNDARIES.add(marked.__code__)
    return function


def hide(file: str) -> None:
    """Leave the frames of ``file``, which holds a mode, out of places and messages."""
    _HIDDEN.add(file)


_BOUNDARIES: set[CodeType] = set()
_HIDDEN = {__file__, overrides.__file__}


def _frames() -> Iterator[FrameType]:
    """The frames of the running program that are not a mode's, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in _BOUNDARIES:
        if frame.f_code.co_filename not in _HIDDEN:
            yield frame
        frame = frame.f_back


def where() -> tuple[str, int]:
    """File and line of the innermost frame that is not torch's, or if all are, of the innermost."""
    frames = list(_frames())
    frame = next((frame for frame in frames if not _of_torch(frame)), frames[0])
    return frame.f_code.co_filename, frame.f_lineno


def _of_torch(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_TORCH)
