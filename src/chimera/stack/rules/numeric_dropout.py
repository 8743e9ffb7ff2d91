"""Dropout whose probability differs between members.

Every member draws what the layer alone draws: as many numbers, of the same shape, in the same
place of the call, compared with its own probability. A layer that drops nothing, or all, draws
nothing alone: what is drawn for it here is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws.mode import uncounted
from chimera.stack.rules.numeric import PerMember, chance, numeric, wide
from chimera.stack.rules.together import together

# Of a SELU network: the value that units far below zero take (Klambauer et al. 2017,
# arXiv:1706.02515, section "Alpha dropout").
_ALPHA = 1.7580993408473766


def kept(p: PerMember, shape: Sequence[int], device: torch.device) -> Tensor:
    """Which units stay, bool ``shape``: one draw, as torch makes it."""
    staying = torch.bernoulli((1 - p.tensor).to(device).expand(shape)).bool()
    if some_draw_nothing(p.values):
        together(_uncounted, p.tensor)
    return staying


def some_draw_nothing(values: Sequence[float]) -> bool:
    """Whether some members draw nothing alone: dropout of 0 or 1 of what there is."""
    return any(value in (0, 1) for value in values)


def uncounted_at(p: Tensor) -> None:
    """The draw just made is none of those members whose probability ``[members]`` needs none."""
    uncounted((p == 0) | (p == 1))


def _uncounted(size: int, p: Tensor) -> Tensor:
    uncounted_at(p)
    return p


def staying_share(p: Tensor) -> Tensor:
    """``1 - p``, to divide by; 1 where nothing stays."""
    return torch.where(p == 1, 1, 1 - p)


@numeric(nn.Dropout, p=chance)
def dropout(module: Any, x: Tensor) -> Tensor:
    return _dropped(module, x, x.shape)


@numeric(nn.AlphaDropout, p=chance)
def alpha_dropout(module: Any, x: Tensor) -> Tensor:
    return _alpha_dropped(module, x, x.shape)


@numeric(nn.Dropout1d, p=chance)
def dropout1d(module: Any, x: Tensor) -> Tensor:
    return _dropped(module, x, _of_channels(x, batched=x.dim() == 3, known=x.dim() in (2, 3)))


@numeric(nn.Dropout2d, p=chance)
def dropout2d(module: Any, x: Tensor) -> Tensor:
    return _dropped(module, x, _of_channels(x, batched=True, known=x.dim() == 4))


@numeric(nn.Dropout3d, p=chance)
def dropout3d(module: Any, x: Tensor) -> Tensor:
    return _dropped(module, x, _of_channels(x, batched=x.dim() == 5, known=x.dim() in (4, 5)))


@numeric(nn.FeatureAlphaDropout, p=chance)
def feature_alpha_dropout(module: Any, x: Tensor) -> Tensor:
    return _alpha_dropped(module, x, _of_channels(x, batched=True, known=x.dim() >= 2))


def _of_channels(x: Tensor, *, batched: bool, known: bool) -> list[int]:
    """The shape of one number a channel; for inputs that torch warns of or refuses, an error."""
    if not known:
        raise ValueError(f"dropout of channels on an input of shape {tuple(x.shape)}")
    axes = 2 if batched else 1
    return [*x.shape[:axes], *[1] * (x.dim() - axes)]


def _dropped(module: Any, x: Tensor, shape: Sequence[int]) -> Tensor:
    if not module.training or x.numel() == 0:
        return x
    p = module.p.tensor
    staying = kept(module.p, shape, x.device)
    scale = staying.to(wide(x).dtype) / staying_share(p).to(wide(x).dtype)
    y = (wide(x) * scale).to(x.dtype)
    return x.copy_(y) if getattr(module, "inplace", False) else y


def _alpha_dropped(module: Any, x: Tensor, shape: Sequence[int]) -> Tensor:
    if not module.training or x.numel() == 0:
        return x
    p = module.p.tensor
    staying = kept(module.p, shape, x.device)
    scale = torch.where(p == 1, 0, ((_ALPHA**2 * p + 1) * staying_share(p)).rsqrt())
    dtype = wide(x).dtype
    dropped = torch.where(staying, scale * p, scale * (p - 1)) * _ALPHA
    y = (wide(x) * torch.where(staying, scale, 0.0).to(dtype) + dropped.to(dtype)).to(x.dtype)
    return x.copy_(y) if getattr(module, "inplace", False) else y
