"""What a step changes, and how far two outcomes of the same step are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a step changes.

    Attributes:
        own: the stacked tensors.
        state: the optimizer's.
        names: what each of these is called.
    """

    own: list[Tensor]
    state: list[Tensor]
    names: list[str]

    def copies(self) -> Tensors:
        """The same in memory of their own."""
        own, state = ([tensor.clone() for tensor in part] for part in (self.own, self.state))
        return Tensors(own, state, self.names)

    def take_over(self, other: Tensors) -> None:
        """Let these hold what ``other`` holds."""
        for mine, theirs in zip((*self.own, *self.state), (*other.own, *other.state), strict=True):
            mine.copy_(theirs)

    def apart(
        self,
        other: Tensors,
        losses: Sequence[Tensor],
        others: Sequence[Tensor],
        before: Sequence[Tensor],
    ) -> float:
        """How far ``other``, and the losses that came with it, are from these.

        The largest difference, as a part of the largest loss, stacked tensor or tensor of the
        state. Where a gradient is rounding noise, as a bias's before batch norm, Adam moves a
        parameter by all of its learning rate in any direction: twice the way that a tensor went is
        no difference.

        Args:
            other: what the same step made of copies.
            losses: of this step.
            others: of the other.
            before: what ``own`` was before the step.
        """
        ways = [2.1 * largest(a - b) for a, b in zip(self.own, before, strict=True)]
        return max(
            relative(losses, others),
            relative(self.own, other.own, ways),
            *(relative(*pairs) for pairs in self._by_name(other)),
        )

    def _by_name(self, other: Tensors) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        for name in dict.fromkeys(self.names):
            yield (
                [t for t, other in zip(self.state, self.names, strict=True) if other == name],
                [t for t, other in zip(other.state, self.names, strict=True) if other == name],
            )


@torch.no_grad()
def relative(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], free: Sequence[float] | None = None
) -> float:
    """The largest difference, as a part of the largest number of ours; NaN only meets NaN.

    Args:
        ours: tensors.
        theirs: of the same shapes.
        free: what a tensor may differ by besides.
    """
    worst = most = 0.0
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine.dtype == torch.bool:
            continue
        if not torch.equal(mine.isfinite(), other.isfinite()):
            return math.inf
        most = max(most, largest(mine))
        worst = max(worst, largest(mine - other) - (free[place] if free else 0.0))
    return worst / most if most else worst


def largest(tensor: Tensor) -> float:
    """The largest finite number of a tensor, without its sign."""
    if not tensor.numel():
        return 0.0
    return float(tensor.where(tensor.isfinite(), 0).abs().max())
