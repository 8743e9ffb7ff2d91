"""The eager engine: forward, loss, backward, clipping and update, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chimera.draws.mode import Key
from chimera.engine.program import Members
from chimera.engine.surroundings import around
from chimera.optim.clip import Clip
from chimera.optim.optimizer import Optimizer
from chimera.stack.batched import Call
from chimera.stack.each import Arguments
from chimera.stack.outputs import merge
from chimera.stack.stack import Stack

Hook = Callable[[Tensor], None]


class Eager:
    """A step of a Stack in its two halves.

    Args:
        stack: the members.
        call: gives one member's loss.
        loss: what ``call`` asks for it.
        optimizer: moves the parameters.
        hook: called with the losses between the halves.
        clip: scales the gradients after that.
    """

    def __init__(
        self,
        stack: Stack,
        call: Call,
        loss: Any,
        optimizer: Optimizer,
        hook: Hook | None,
        clip: Clip | None,
    ) -> None:
        self.stack, self.call, self.optimizer = stack, call, optimizer
        self.surroundings = around(stack, {"loss": loss})
        self.hook, self.clip = hook, clip

    def own(self) -> list[Tensor]:
        """Every parameter and buffer."""
        return [tensor for group, _ in self.stack.parts() for tensor in group.tensors()]

    def kind(self, given: Arguments) -> Any:
        """What a recording holds for good: modes, numbers, frozen rows."""
        modes = tuple(
            module.training
            for group, _ in self.stack.parts()
            for _, module in group.reading.modules
        )
        return (modes, self.stack.constants())

    def serves(self, key: Key) -> bool:
        """Whether a recording draws what this call is to draw."""
        same = (key.seed, key.call) == (self.stack.seed, 0)
        return same and isinstance(key.step, int)

    def program(self, given: Arguments) -> Members:
        """The losses as a function of tensors.

        Raises:
            Uncapturable: they are more.
        """
        return Members(self.stack, self.call, given)

    def take(self, given: Arguments, key: Key) -> Tensor:
        """One step; the losses ``[members]``, detached."""
        losses = self.gradients(given, key)
        self.update(losses)
        return losses

    def gradients(self, given: Arguments, key: Key) -> Tensor:
        """Leave every gradient on its parameter; the losses ``[members]``, detached."""
        self.optimizer.zero_grad()
        losses = checked_losses(merge(self.stack.run(self.call, given, key)), len(self.stack))
        losses.sum().backward()
        return losses.detach()

    def update(self, losses: Tensor) -> None:
        """Move the parameters by their gradients."""
        if self.hook is not None:
            self.hook(losses)
        self.move()

    def move(self) -> None:
        """Clip, and let the optimizer step."""
        if self.clip is not None:
            self.clip()
        self.optimizer.step()


def checked_losses(losses: Any, size: int) -> Tensor:
    """The losses ``[size]``.

    Raises:
        TypeError: they are no tensor.
        ValueError: a member's is no single number, or depends on no parameter.
    """
    if not isinstance(losses, Tensor):
        if isinstance(losses, list) and losses and isinstance(losses[0], Tensor):
            shapes = sorted({tuple(each.shape) for each in losses})
            raise ValueError(f"loss must give one number a member, got shapes {shapes}")
        raise TypeError(f"loss must give a tensor, got {losses!r:.60}")
    if losses.numel() != size:
        raise ValueError(
            f"loss must give one number a member, got shape {tuple(losses.shape[1:])} for one; "
            "reduce it, as in loss.mean()"
        )
    if not losses.requires_grad:
        why = "gradients are switched off" if not torch.is_grad_enabled() else "it has no graph"
        raise ValueError(f"loss depends on no parameter that requires a gradient ({why})")
    return losses.view(size)
