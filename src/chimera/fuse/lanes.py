"""A value that branches carry side by side, and products on it.

Branches run in lanes. ``Lanes`` holds the values of all lanes in one tensor ``[K, ...]``; while
``spread`` neighbouring lanes still have the same value (as the input that all branches share), it
stands once.

Shapes: L lanes = K values x S lanes each; B rows, I and O features of one lane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.fuse.transforms import transformed

_SIDE_BY_SIDE = {True: True, False: False}


@dataclass(frozen=True, slots=True)
class Lanes:
    """The values of ``K * spread`` lanes.

    Attributes:
        tensor: ``[K, ...]``, with any strides.
        spread: how many neighbouring lanes share each of the ``K`` values.
    """

    tensor: Tensor
    spread: int = 1

    def __len__(self) -> int:
        return len(self.tensor) * self.spread

    def like(self, tensor: Tensor) -> Lanes:
        """Other values of lanes that share them as these do."""
        return Lanes(tensor, self.spread)

    def full(self) -> Tensor:
        """The lanes' values one by one ``[L, ...]``; where lanes share, a view if it can be."""
        if self.spread == 1:
            return self.tensor
        return self.over(self.tensor, self.spread)

    @staticmethod
    def over(tensor: Tensor, times: int) -> Tensor:
        """Every one of the first axis ``times`` times, side by side."""
        wide = tensor.unsqueeze(1).expand(len(tensor), times, *tensor.shape[1:])
        return wide.reshape(len(tensor) * times, *tensor.shape[1:])

    def one(self) -> Tensor:
        """The value of the first lane."""
        return self.tensor[0]


def product(x: Lanes, w_LOI: Tensor, b_LO: Tensor | None, *, relu: bool = False) -> Tensor:
    """``Linear`` in every lane: ``[L, *rows, O]`` from ``[K, *rows, I]``.

    With ``relu`` a ``ReLU`` follows, in the memory of the product.
    """
    rows = x.tensor.shape[1:-1]
    x_KBI = x.tensor
    if len(rows) != 1:
        x_KBI = x_KBI.reshape(len(x_KBI), math.prod(rows), x_KBI.shape[-1])
    if transformed() or x_KBI.is_meta or torch.is_autocast_enabled(x_KBI.device.type):
        y_LBO = _forward(x_KBI, w_LOI, b_LO, x.spread)
        y_LBO = torch.relu(y_LBO) if relu else y_LBO
    else:
        y_LBO = _Product.apply(x_KBI, w_LOI, b_LO, x.spread, relu)  # type: ignore[no-untyped-call]
    if len(rows) == 1:
        return y_LBO
    return y_LBO.reshape(len(y_LBO), *rows, y_LBO.shape[-1])


def _forward(x: Tensor, w: Tensor, b: Tensor | None, spread: int) -> Tensor:
    K, B, I = x.shape  # noqa: E741 - as in the legend
    L, O, _ = w.shape  # noqa: E741
    if spread == 1 or (K == 1 and _SIDE_BY_SIDE[x.device.type == "cpu"]):
        x = x.expand(L, B, I)
        if b is None:
            return torch.bmm(x, w.transpose(1, 2))
        return torch.baddbmm(b.unsqueeze(1), x, w.transpose(1, 2))
    wide = w.reshape(K, spread * O, I).transpose(1, 2)
    y = torch.bmm(x, wide) if b is None else torch.baddbmm(b.reshape(K, 1, -1), x, wide)
    return y.view(K, B, spread, O).transpose(1, 2).reshape(L, B, O)


class _Product(torch.autograd.Function):
    """``_forward``, with a weight gradient in the layout of the weights, and a ReLU in place.

    torch's own backward gives its transpose, which would be copied row by row.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, spread: int, relu: bool
    ) -> Tensor:
        y = _forward(x, w, b, spread)
        if relu:
            y = y.relu_()
        ctx.save_for_backward(x, w, y if relu else None)
        ctx.spread = spread
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w, y = ctx.saved_tensors
        if y is not None:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        if g.is_complex():
            x, w = x.conj(), w.conj()
        need_x, need_w, need_b, *_ = ctx.needs_input_grad
        (K, B, I), (L, O, _), S = x.shape, w.shape, ctx.spread  # noqa: E741 - as in the legend
        if S == 1:
            return (
                torch.bmm(g, w) if need_x else None,
                torch.bmm(g.transpose(1, 2), x) if need_w else None,
                g.sum(1) if need_b else None,
                *(None, None),
            )
        wide = K > 1 or not _SIDE_BY_SIDE[x.device.type == "cpu"]
        if need_x or (need_w and wide):
            g_KBW = g.view(K, S, B, O).transpose(1, 2).reshape(K, B, S * O)
        dw = None
        if need_w:
            dw = (
                torch.bmm(g_KBW.transpose(1, 2), x).view(L, O, I)
                if wide
                else torch.bmm(g.transpose(1, 2), x.expand(L, B, I))
            )
        return (
            torch.bmm(g_KBW, w.reshape(K, S * O, I)) if need_x else None,
            dw,
            g.sum(1) if need_b else None,
            *(None, None),
        )
