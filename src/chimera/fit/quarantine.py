"""Members whose loss or gradient turns NaN or infinite: they stand still from then on.

Such a member keeps the weights that it had before the step, and its buffers as the forward of that
step left them; its figures are NaN. It stays among the others, so that these compute what they
would have computed had it stayed finite.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chimera.optim.groups import member_path
from chimera.optim.optimizer import Optimizer
from chimera.stack import Stack


@dataclass(frozen=True)
class Death:
    """When and where a member broke down.

    Attributes:
        member: its id.
        epoch: counted from 1.
        step: the optimizer's step that it did not take, counted from 1.
        of: ``"loss"``, or ``"gradient of <path>"``, the first of its parameters.
    """

    member: int
    epoch: int
    step: int
    of: str

    def __str__(self) -> str:
        return f"epoch {self.epoch}, step {self.step}: {self.of} not finite"


class Quarantine:
    """The members of a run that broke down.

    Args:
        stack: the members.
        optimizer: theirs.

    Attributes:
        deaths: of those that broke down, by position in the stack.
    """

    def __init__(self, stack: Stack, optimizer: Optimizer) -> None:
        self._stack, self._optimizer = stack, optimizer
        self._layout = stack.layout()
        self._alive = torch.ones(len(stack), dtype=torch.bool, device=stack.device)
        self.deaths: dict[int, Death] = {}
        self._settled: set[int] = set()
        self._buffers: dict[tuple[nn.Module, str], Tensor] = {}  # as those had them that broke down

    @torch.no_grad()
    def look(self, losses: Tensor, epoch: int) -> None:
        """Freeze the members whose loss or gradient is not finite, before the optimizer's step.

        Args:
            losses: of every member ``[members]``.
            epoch: the present one, from 1.
        """
        gradients = [p.parameter.grad for p in self._layout]
        if self.deaths:
            self._quiet(gradients)
        kept = [gradient for gradient in gradients if gradient is not None]
        # A sum is finite only where all of its terms are; where it is not, each is looked at.
        sums = [losses.sum(), *(gradient.sum() for gradient in kept)]
        if self.deaths:
            sums[0] = losses.where(self._alive, 0).sum()
        if bool(torch.stack([one.isfinite() for one in sums]).all()):
            return
        step = self._optimizer.steps + 1
        found = {
            position: Death(self._stack.members[position], epoch, step, of)
            for position, of in self._broken(losses).items()
            if position not in self.deaths
        }
        self.isolate(found)
        self._quiet(gradients)

    def isolate(self, deaths: dict[int, Death]) -> None:
        """Let members, by position, be among those that broke down."""
        if deaths:
            self.deaths = dict(sorted((self.deaths | deaths).items()))
            self._alive[list(deaths)] = False
            self._optimizer.freeze(deaths)

    @torch.no_grad()
    def settle(self) -> None:
        """Let those that broke down have the buffers that they had when this first was called."""
        if not self.deaths:
            return
        new = self.deaths.keys() - self._settled
        for group, _ in self._stack.parts():
            dead = [i for i, p in enumerate(group.positions) if p in self._settled]
            died = [i for i, p in enumerate(group.positions) if p in new]
            for home, buffer in zip(group.homes, group.tensors(), strict=True):
                if isinstance(buffer, nn.Parameter) or buffer.layout != torch.strided:
                    continue
                kept = self._buffers.get(home)
                if kept is None or kept.shape != buffer.shape or kept.dtype != buffer.dtype:
                    kept = self._buffers[home] = buffer.clone()
                buffer[dead] = kept[dead]
                kept[died] = buffer[died]
        self._settled |= new

    def masked(self, figures: Tensor) -> Tensor:
        """Figures ``[..., members]`` with NaN for the members that broke down."""
        return figures.where(self._alive.to(figures.device), torch.nan) if self.deaths else figures

    def said(self, positions: Iterable[int]) -> list[str | None]:
        """For each position when and where that member broke down, or None."""
        return [str(self.deaths[p]) if p in self.deaths else None for p in positions]

    def _broken(self, losses: Tensor) -> dict[int, str]:
        """The positions of members that are not finite, and what of them is not."""
        found: dict[int, str] = {}
        for position in (~losses.isfinite()).nonzero()[:, 0].tolist():
            found[position] = "loss"
        for stacked in self._layout:
            gradient = stacked.parameter.grad
            if gradient is None:
                continue
            rows = ~gradient.reshape(len(gradient), -1).isfinite().all(1)
            for position in stacked.members[rows.cpu()].tolist():
                found.setdefault(position, f"gradient of {member_path(stacked.name)}")
        return found

    def _quiet(self, gradients: list[Tensor | None]) -> None:
        """No gradient for those that broke down: what is not finite reaches no optimizer."""
        for stacked, gradient in zip(self._layout, gradients, strict=True):
            if gradient is None:
                continue
            dead = ~self._alive[stacked.members.to(self._alive.device)]
            gradient[dead.to(gradient.device)] = 0
