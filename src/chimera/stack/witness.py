"""What a run of many members does beside computing: errors that it catches, tensors that it leaves.

An error of many members' operation may be one member's alone, so a module that catches it sends
all of them the same way. A tensor of many members that is still there after the run, in a cache
of a module's file or a list of features, is of no use to anyone: outside of the run it is dead.
Both are seen here, and such runs do not count.
"""

from __future__ import annotations

import gc
import os
import sys
import weakref
from types import FrameType
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from chimera.decide.caught import catches
from chimera.decide.transforms import is_dead
from chimera.stack.holders import first_holder, take_away
from chimera.stack.outside import Outside
from chimera.stack.rules.together import NOTING

_OURS = tuple(
    os.path.dirname(os.path.abspath(str(sys.modules[name].__file__))) + os.sep
    for name in ("torch", "chimera")
)


class Swallowed(Exception):
    """The module caught an error of what ran as one."""


class Escaped(Exception):
    """The module keeps tensors of many members outside of itself."""


class Changes(Exception):
    """The module changes what is outside of itself, once for all members at once."""


class Witness(TorchFunctionMode):
    """Sees what the operations of a run raise, and with ``thorough`` what outlives it.

    Args:
        until: the file whose code began the run: what catches errors around it has no say.
        thorough: look for places that catch errors, and for tensors that outlive the run.
        outside: what the code can reach, put back where tensors outlive the run.

    Attributes:
        guarded: an operation ran where the module catches errors.
    """

    def __init__(self, until: str, *, thorough: bool, outside: Outside | None = None) -> None:
        super().__init__()
        self._until, self._thorough, self._outside = until, thorough, outside
        self._raised: Exception | None = None
        self._made: list[weakref.ref[Tensor]] = []
        self.guarded = False

    def __enter__(self) -> Witness:
        self._before = NOTING.note
        if self._thorough:
            NOTING.note = self.note
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        NOTING.note = self._before

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self._outside is not None:
            self._look(self._outside, sys._getframe(1))
        try:
            found = func(*args, **(kwargs or {}))
        except Exception as error:
            self._raised = error
            raise
        if self._thorough:
            if not self.guarded:
                self.guarded = catches(sys._getframe(1), self._until, _OURS)
            self.note(found)
        return found

    def _look(self, outside: Outside, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_filename != self._until:
            if not frame.f_code.co_filename.startswith(_OURS):
                outside.see(frame.f_globals)
                for first in frame.f_code.co_varnames[: min(frame.f_code.co_argcount, 1)]:
                    outside.meet(frame.f_locals.get(first))  # a method's object
            frame = frame.f_back

    def note(self, made: Any) -> None:
        """Take note of tensors of the run, one or several."""
        if isinstance(made, Tensor):
            self._made.append(weakref.ref(made))
        elif isinstance(made, tuple | list):
            for one in made:
                self.note(one)

    def completed(self) -> None:
        """The run came to its end.

        Raises:
            Swallowed: though one of its operations had raised.
            Changes: it changed what is outside of the module; that is put back.
        """
        error, self._raised = self._raised, None
        if error is not None:
            text = str(error).strip().split("\n")[0]
            raise Swallowed(
                f"forward catches an error, which may be one member's alone: "
                f"{type(error).__name__}: {text[:100]}"
            )
        if self._outside is not None and (what := self._outside.changed()) is not None:
            raise Changes(f"forward changes what is outside of the module: {what}")

    def ended(self, error: BaseException | None) -> None:
        """Nothing of the run is held any more, but by what the module itself keeps.

        Args:
            error: what the run raised; its frames, which hold tensors, are let go of.

        Raises:
            Escaped: tensors of the run are still there. They are taken out of what holds them.
            Held: they cannot be.
        """
        made, self._made, self._raised = self._made, [], None
        outside, self._outside = self._outside, None
        failed = error is not None
        where = _holder(made, error) if _alive(made) else None
        if where is None:
            if failed and outside is not None:
                outside.restore()
            return
        if outside is not None:
            outside.restore()
        take_away(_alive(made))
        raise Escaped(
            f"forward keeps tensors outside of the module, in {where}: one for all members at once"
        )


def _holder(made: list[weakref.ref[Tensor]], error: BaseException | None) -> str | None:
    """What holds tensors of a run; None where nothing does, or torch alone, as what it raised."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    for generation in (0, 1, 2):  # cycles: a function that calls itself holds what it knows
        if not _alive(made):
            return None
        gc.collect(generation)
    return first_holder(_alive(made))


def _alive(made: list[weakref.ref[Tensor]]) -> list[Tensor]:
    found = [tensor for ref in made if (tensor := ref()) is not None and is_dead(tensor)]
    return list({id(tensor): tensor for tensor in found}.values())
