"""Rows of stacked tensors for some members, and the gradients that those leave out.

A parameter that a module does not use has no gradient, None, so that an optimizer leaves it alone:
weight decay does not shrink it, momentum does not move it. A stacked gradient has a row for every
member. The row of a member whose graph never reached the parameter holds -0.0 alone: added to any
number, and to itself, -0.0 changes nothing, so that such rows stay what they are through whatever
sums up gradients. A row that was reached has 0.0 in the place of every -0.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chimera.blocks import While
from chimera.paths.bind import reached
from chimera.paths.structure import Reading


def rows_at(stacked: Tensor, index: Tensor) -> Tensor:
    """The rows ``[places, ...]`` of a stacked tensor; the others are left out of the gradient."""
    if not stacked.requires_grad:
        return stacked.index_select(0, index)
    rows: Tensor = _RowsAt.apply(stacked, index)  # type: ignore[no-untyped-call]
    return rows


def rows_alone(stacked: Tensor) -> Sequence[Tensor]:
    """Every row of a stacked tensor that takes a gradient, in the memory of it.

    As far as autograd can tell, a row has nothing in common with the others: what one member
    changes in place does not hold up another's backward.
    """
    rows: tuple[Tensor, ...] = _RowsAlone.apply(stacked)  # type: ignore[no-untyped-call]
    return rows


def row_alone(stacked: Tensor, place: int) -> Tensor:
    """A row of a stacked tensor, in its memory, that takes no gradient."""
    return stacked.data[place].data


def reached_by(stacked: Tensor, members: Members) -> Tensor:
    """``stacked`` itself; what members do not use is left out of the gradient."""
    same: Tensor = _ReachedBy.apply(stacked, members)  # type: ignore[no-untyped-call]
    return same


def absent(gradient: Tensor) -> Tensor | None:
    """Which rows of a stacked gradient no graph reached ``[members]``, bool; None for none."""
    real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    left_out = ((real == 0) & real.signbit()).reshape(len(real), -1).all(1)
    return left_out if bool(left_out.any()) else None


class Members:
    """Which members used something; known at the latest when gradients flow.

    Attributes:
        used: ``[members]``, bool; None for all of them.
    """

    used: Tensor | None = None


ALL = Members()


def in_loops(reading: Reading) -> frozenset[int]:
    """The slots that the turns of a ``While`` may use: its rule tells which members did."""
    loops = [module for _, module in reading.modules if isinstance(module, While)]
    inside = {id(inner) for loop in loops for inner in (loop, *reached(loop.body))}
    return frozenset(
        index
        for index, slot in enumerate(reading.slots)
        if any(id(reading.modules[place.module][1]) in inside for place in slot.places)
    )


def nothing(like: Tensor) -> Tensor:
    """What a row holds that no graph reached."""
    return torch.full_like(like, complex(-0.0, -0.0) if like.is_complex() else -0.0)


class _RowsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stacked: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = len(stacked)
        return stacked.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        whole = nothing(grad.new_empty(ctx.size, *grad.shape[1:]))
        return whole.index_copy(0, index, grad + 0.0), None


class _RowsAlone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stacked: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(row_alone(stacked, place) for place in range(stacked.shape[0]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        known = next((grad for grad in grads if grad is not None), None)
        if known is None:
            return None
        if known.is_sparse:  # which no optimizer of a stack takes
            return torch.stack([torch.zeros_like(known) if g is None else g for g in grads])
        blank = nothing(known) if any(grad is None for grad in grads) else known
        return torch.stack([blank if grad is None else grad + 0.0 for grad in grads])


class _ReachedBy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stacked: Tensor, members: Members) -> Tensor:
        ctx.members = members
        return stacked.view_as(stacked)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        used = ctx.members.used
        if used is None:
            return grad + 0.0, None
        reached = used.to(grad.device).view(-1, *[1] * (grad.dim() - 1))
        return torch.where(reached, grad + 0.0, nothing(grad)), None
