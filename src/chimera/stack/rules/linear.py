"""``Linear`` with a member axis: one batched product.

Its own backward writes the weights' gradient in the layout of the weights; torch's batching
computes the transpose, and copies it.

Shapes: N members, B rows of one member, I and O features; x_NBI, w_NOI, b_NO.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.autocast import lowered
from chimera.stack.rules.table import rule
from chimera.stack.rules.together import together

# On a CPU a product whose rows hold fewer numbers than a vector unit takes at once costs three
# times the transposed one.
NARROW = 16


@rule(nn.Linear, "batched product", casts=True)
def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """``Linear.forward`` for all members."""
    if not isinstance(x, Tensor):
        return F.linear(x, module.weight, module.bias)
    given: list[Any] = [x, module.weight, module.bias]
    if torch.is_autocast_enabled(x.device.type):
        given = lowered(*given)
    y: Tensor = together(_linear, *given)
    return y


def _linear(size: int, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    rows = x.shape[1:-1]
    x_NBI = x if len(rows) == 1 else x.reshape(size, math.prod(rows), x.shape[-1])
    if x_NBI.shape[-1] != w.shape[-1]:
        # As the layer alone says it.
        F.linear(x[0], w[0], None if b is None else b[0])
    y_NBO: Tensor = _Product.apply(x_NBI, w, b)  # type: ignore[no-untyped-call]
    return y_NBO if len(rows) == 1 else y_NBO.view(size, *rows, y_NBO.shape[-1])


class _Product(torch.autograd.Function):
    """y_NBO = x_NBI w_NOI^T + b_NO."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        if w.shape[1] < NARROW <= x.shape[1] and w.device.type == "cpu":
            x_NIB = x.transpose(1, 2)
            y_NOB = torch.bmm(w, x_NIB) if b is None else torch.baddbmm(b.unsqueeze(2), w, x_NIB)
            return y_NOB.transpose(1, 2).contiguous()
        if b is None:
            return torch.bmm(x, w.transpose(1, 2))
        return torch.baddbmm(b.unsqueeze(1), x, w.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        if g.is_complex():
            x, w = x.conj(), w.conj()
        need_x, need_w, need_b = ctx.needs_input_grad
        return (
            torch.bmm(g, w) if need_x else None,
            torch.bmm(g.transpose(1, 2), x) if need_w else None,
            g.sum(1) if need_b else None,
        )
