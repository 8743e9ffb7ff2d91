"""Tensors one after the other in flat memory: in a graph, one operation whatever their number.

Torch's compiler writes code for each tensor of a ``stack`` or ``cat``, so that its time grows with
the branches of a fused network; an operation of our own it only calls. An exported program holds
torch's operations, so that it loads where Chimera is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

FEW = 8
"""Up to so many tensors the compiler makes one kernel of all."""


def flat(rows: Sequence[Tensor]) -> Tensor:
    """The numbers of ``rows``, one row's after the other's."""
    if at_once(rows):
        joined: Tensor = flat_at_once(list(rows))
        return joined
    return torch.cat([row.reshape(-1) for row in rows])


def at_once(rows: Sequence[Tensor]) -> bool:
    """Whether they are many, in a graph that is run here: its tensors are of their own classes."""
    known = type(rows[0]) in (nn.Parameter, Tensor, nn.Buffer)
    return len(rows) > FEW and not known and not torch.compiler.is_exporting()


@torch.library.custom_op("chimera::flat", mutates_args=())
def flat_at_once(rows: list[Tensor]) -> Tensor:
    """``flat`` as one operation."""
    return torch.cat([row.reshape(-1) for row in rows])


@flat_at_once.register_fake
def _(rows: list[Tensor]) -> Tensor:
    return rows[0].new_empty(sum(math.prod(row.shape) for row in rows))


def _keep_shapes(ctx: Any, inputs: tuple[list[Tensor]], output: Tensor) -> None:
    ctx.shapes = [row.shape for row in inputs[0]]


def _parted(ctx: Any, grad: Tensor) -> list[Tensor]:
    parts = torch.split_with_sizes(grad, [math.prod(shape) for shape in ctx.shapes])
    return [part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True)]


flat_at_once.register_autograd(_parted, setup_context=_keep_shapes)
