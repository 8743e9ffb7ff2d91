"""The ways through ``While`` and ``Cond``: which of them runs took, and runs that take a given one.

A branch of a block is declared to be a way through the network, so each must run. (One of a plain
``if`` may be there to end a run: ``if x.isnan().any(): raise``.) The ways of a ``Cond`` are
``then`` and ``otherwise``; those of a ``While`` are no turn, one, and two or more, since a second
turn takes what the first gave. What shapes or settings answer is no choice of the data, and is left
to them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from chimera.blocks.control import Cond, While
from chimera.paths.walk import first_paths

_TURNS = 2


@dataclass(frozen=True)
class Way:
    """One way through a block."""

    path: str
    """The path of the block."""
    kind: str
    turns: int
    """Of a ``While`` at most 2, which stands for more too; of a ``Cond`` 1 for ``then``."""

    def __str__(self) -> str:
        if self.kind == "Cond":
            said = "then" if self.turns else "otherwise"
        else:
            said = ("no turn", "one turn", "two turns")[self.turns]
        return f"the {self.kind} at {self.path or '(root)'} takes {said}"


class Ways:
    """Looks on at the blocks of a copy in one run.

    Args:
        asked: how many conditions on data the run has asked so far.
        wanted: the ways that blocks are to take, one a block, where data answer.
    """

    def __init__(self, asked: Callable[[], int], wanted: Iterable[Way] = ()) -> None:
        self.taken: set[Way] = set()
        """The ways that were taken to their last answer."""
        self.possible: set[Way] = set()
        """The ways that answers of data open."""
        self.given: set[Way] = set()
        """The ways among those wanted that were begun."""
        self._asked = asked
        self._wanted: Mapping[str, Way] = {way.path: way for way in wanted}

    @contextmanager
    def watched(self, net: nn.Module) -> Iterator[None]:
        """A context for the run of ``net``."""
        blocks: list[nn.Module] = []
        for block, path in first_paths(net).items():
            if isinstance(block, (While, Cond)):
                block.__dict__["holds"] = self._holds(block, path)
                blocks.append(block)
        try:
            yield
        finally:
            for block in blocks:
                del block.__dict__["holds"]

    def _holds(self, block: While | Cond, path: str) -> Callable[..., bool]:
        holds = block.holds
        kind = "While" if isinstance(block, While) else "Cond"
        limit = block.limit if isinstance(block, While) else 1
        wanted = self._wanted.get(path)
        answers: set[bool] = set()
        turns = 0

        def answered(*inputs: object, **named: object) -> bool:
            nonlocal turns
            before = self._asked()
            answer = holds(*inputs, **named)
            if self._asked() > before:
                answers.add(answer)
                self.possible |= {
                    Way(path, kind, n)
                    for n in range(min(limit, _TURNS) + 1)
                    if (n == 0 or True in answers) and (n == limit or False in answers)
                }
                if wanted is not None:
                    self.given.add(wanted)
                    answer = turns < wanted.turns
            turns += answer
            if not answer or turns == limit:
                self.taken.add(Way(path, kind, min(turns, _TURNS)))
                turns = 0
            return answer

        return answered
