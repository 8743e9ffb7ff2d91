"""Some members of a kind of call, as a program of their own: what a chunk runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from chimera.engine.eager import checked_losses
from chimera.engine.program import Members
from chimera.stack.each import Arguments
from chimera.stack.outputs import merge


class Part:
    """Some members of a kind of call, as a program of their own.

    Args:
        whole: of all members.
        spans: the places in each group of those that run.
        given: arguments of all members; others of the same shapes may stand for them.

    Attributes:
        trained, buffers, shape: as of every program.
        positions: the members, in the order of the losses.
    """

    def __init__(self, whole: Members, spans: Sequence[range], given: Arguments) -> None:
        self._whole, self._spans, self._given = whole, spans, given
        self.trained, self.buffers = whole.trained, whole.buffers
        self.positions = whole.positions(spans)
        self.shape: tuple[int, ...] = (len(self.positions),)

    def tensors(self) -> list[Tensor]:
        """The rows of the stacked tensors."""
        return self._whole.narrowed(self._whole.tensors(), self._spans)

    def moving(self, given: Arguments) -> list[Tensor]:
        """The tensors among the arguments of all members."""
        return self._whole.moving(given)

    def outputs(self, tensors: Sequence[Tensor], moving: Sequence[Tensor], step: Tensor) -> Any:
        """The losses of the members; see ``Members.outputs``."""
        arguments = iter(moving)
        leaves = [next(arguments) if isinstance(x, Tensor) else x for x in self._given.leaves]
        given = Arguments(leaves, self._given.own, self._given.shape)
        outputs = self._whole.of_part(list(tensors), given, step, self._spans)
        return checked_losses(merge(outputs), len(self.positions))
