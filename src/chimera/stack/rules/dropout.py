"""Dropout with a member axis: one draw for all members, and no detour through vmap.

vmap takes dropout apart into six operations, and the mode that draws sees each of them. Every
member draws what the layer alone draws: as many numbers, of the same shape, in the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws.mode import require_draws
from chimera.stack.rules.table import rule
from chimera.stack.rules.together import is_together, together

_NAME = "drawn for all members"


@rule(nn.Dropout, _NAME)
def dropout(module: nn.Dropout, x: Tensor) -> Tensor:
    """``Dropout.forward`` for all members."""
    if not _draws(module, x):
        return nn.Dropout.forward(module, x)
    y: Tensor = together(_dropped, module.p, None, x)
    return y


@rule(nn.Dropout1d, _NAME)
@rule(nn.Dropout2d, _NAME)
@rule(nn.Dropout3d, _NAME)
def dropout_of_channels(module: Any, x: Tensor) -> Tensor:
    """``forward`` of the three for all members; inputs of fewer axes go torch's way."""
    axes = {nn.Dropout1d: 3, nn.Dropout2d: 4, nn.Dropout3d: 5}[type(module)]
    if not _draws(module, x) or x.dim() != axes:
        found: Tensor = type(module).forward(module, x)
        return found
    y: Tensor = together(_dropped, module.p, [*x.shape[:2], *[1] * (axes - 2)], x)
    return y


def _draws(module: Any, x: Any) -> bool:
    """Whether the layer draws at all, and a rule covers how."""
    return (
        module.training
        and not module.inplace
        and 0 < module.p < 1
        and isinstance(x, Tensor)
        and is_together(x)
        and x.is_floating_point()
        and x.numel() > 0
    )


def _dropped(size: int, p: float, shape: Sequence[int] | None, x: Tensor) -> Tensor:
    require_draws("dropout")
    if shape is None:
        return torch.native_dropout(x, p, True)[0]
    return x * torch.native_dropout(x.new_ones(size, *shape), p, True)[0]
