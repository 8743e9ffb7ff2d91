"""Folding what repeats: equal neighbours, or equal sequences of neighbours, shown once."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from chimera.summary.node import Node

_LONGEST = 8


@dataclass(frozen=True)
class Fold:
    """Neighbours that stand ``times`` times in a row: ``nodes`` are all of them, in order."""

    nodes: tuple[Node, ...]
    times: int

    @property
    def shown(self) -> tuple[Node, ...]:
        """The first of each."""
        return self.nodes[: len(self.nodes) // self.times]

    @property
    def label(self) -> str:
        """``12x Block``, or ``3x (Linear, ReLU)``."""
        kinds = [node.kind for node in self.shown]
        what = kinds[0] if len(kinds) == 1 else f"({', '.join(kinds)})"
        return f"{self.times}x {what}"

    @property
    def names(self) -> str:
        """The names of the first and the last."""
        return f"{self.nodes[0].name}–{self.nodes[-1].name}"  # noqa: RUF001 (an en dash is meant)


def folded(children: Sequence[Node]) -> list[Fold]:
    """``children`` in order, with what repeats folded.

    A folding hides two nodes or more, and a sequence has at most 8. Where several foldings are
    possible the one that covers most is taken, of equal ones the shortest sequence.
    """
    looks = _numbered([child.look for child in children])
    sizes = [sum(1 for _ in child.walk()) for child in children]
    found: list[Fold] = []
    start = 0
    while start < len(children):
        length, times = _best(looks, sizes, start)
        end = start + length * times
        found.append(Fold(tuple(children[start:end]), times))
        start = end
    return found


def _numbered(looks: Sequence[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(look, len(numbers)) for look in looks]


def _best(looks: list[int], sizes: list[int], start: int) -> tuple[int, int]:
    best = 1, 1
    for length in range(1, min(_LONGEST, (len(looks) - start) // 2) + 1):
        end = start + length
        while end < len(looks) and looks[end] == looks[end - length]:
            end += 1
        times = (end - start) // length
        hidden = sum(sizes[start + length : start + length * times])
        if times > 1 and hidden > 1 and length * times > best[0] * best[1]:
            best = length, times
    return best
