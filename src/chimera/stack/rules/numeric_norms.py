"""Normalization whose eps or momentum differs between members.

A layer with ``eps`` gives for ``x`` what it gives with ``EPS`` for ``s x`` where
``s = sqrt(EPS / eps)``, so that torch's own kernels compute with one eps for all members. A
momentum of 1 gives the statistics of the batch, which each member blends in by its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.numeric import (
    PerMember,
    any_number,
    exact,
    numeric,
    refuse_autocast,
    signed,
    wide,
)

EPS = 1e-5
_Statistics = tuple[Tensor | None, Tensor | None]


def _scaled(module: Any, x: Tensor) -> tuple[Tensor, Tensor | None, float]:
    """The input for one eps of all members, what it was multiplied with, and that eps."""
    refuse_autocast(module, x)
    x = wide(x)
    if not isinstance(module.eps, PerMember):
        return x, None, module.eps
    scale = (EPS / module.eps.tensor).sqrt()
    return x * scale.to(x.dtype), scale, EPS


def _affine(module: Any, x: Tensor) -> _Statistics:
    weight, bias = module.weight, getattr(module, "bias", None)
    return (
        None if weight is None else weight.to(x.dtype),
        None if bias is None else bias.to(x.dtype),
    )


@numeric(nn.LayerNorm, eps=signed)
def layer_norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    y, _, eps = _scaled(module, x)
    return F.layer_norm(y, module.normalized_shape, *_affine(module, y), eps).to(x.dtype)


@numeric(nn.RMSNorm, eps=signed)
def rms_norm(module: Any, x: Tensor) -> Tensor:
    y, _, eps = _scaled(module, x)
    return F.rms_norm(y, module.normalized_shape, _affine(module, y)[0], eps).to(x.dtype)


@numeric(nn.GroupNorm, eps=signed)
def group_norm(module: nn.GroupNorm, x: Tensor) -> Tensor:
    y, _, eps = _scaled(module, x)
    return F.group_norm(y, module.num_groups, *_affine(module, y), eps).to(x.dtype)


@numeric(nn.BatchNorm1d, eps=signed, momentum=any_number)
@numeric(nn.BatchNorm2d, eps=signed, momentum=any_number)
@numeric(nn.BatchNorm3d, eps=signed, momentum=any_number)
def batch_norm(module: Any, x: Tensor) -> Tensor:
    axes = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
    _check_axes(module, x, axes[type(module)])
    tracks = module.training and module.track_running_stats
    count = module.num_batches_tracked
    momentum = exact(module, "momentum")
    if tracks and count is not None:
        count.add_(1)
        momentum = 1 / count.double() if momentum is None else momentum
    of_batch = module.training or (module.running_mean is None and module.running_var is None)
    kept = (module.running_mean, module.running_var) if tracks or not module.training else _NONE
    y, scale, eps = _scaled(module, x)
    if not of_batch:
        mean, variance = _rescaled(kept, scale)
        return F.batch_norm(y, mean, variance, *_affine(module, y), False, 0.0, eps).to(x.dtype)
    mean, variance = (None if t is None else torch.zeros_like(t) for t in kept)
    y = F.batch_norm(y, mean, variance, *_affine(module, y), True, 1.0, eps)
    _blend(kept, (mean, variance), scale, 0.0 if momentum is None else momentum)
    return y.to(x.dtype)


_NONE: _Statistics = (None, None)


@numeric(nn.InstanceNorm1d, eps=signed, momentum=any_number)
@numeric(nn.InstanceNorm2d, eps=signed, momentum=any_number)
@numeric(nn.InstanceNorm3d, eps=signed, momentum=any_number)
def instance_norm(module: Any, x: Tensor) -> Tensor:
    inner = {nn.InstanceNorm1d: 2, nn.InstanceNorm2d: 3, nn.InstanceNorm3d: 4}[type(module)]
    _check_axes(module, x, (inner, inner + 1))
    if x.size(x.dim() - inner) != module.num_features:
        raise ValueError(f"{module} got an input of shape {tuple(x.shape)}")
    kept = (module.running_mean, module.running_var)
    of_input = module.training or not module.track_running_stats
    momentum = exact(module, "momentum")
    y, scale, eps = _scaled(module, x if x.dim() > inner else x.unsqueeze(0))
    if not of_input:
        mean, variance = _rescaled(kept, scale)
        y = F.instance_norm(y, mean, variance, *_affine(module, y), False, 0.0, eps)
    else:
        mean, variance = (None if t is None else torch.zeros_like(t) for t in kept)
        y = F.instance_norm(y, mean, variance, *_affine(module, y), True, 1.0, eps)
        _blend(kept, (mean, variance), scale, 0.0 if momentum is None else momentum)
    return (y if x.dim() > inner else y.squeeze(0)).to(x.dtype)


def _check_axes(module: Any, x: Tensor, axes: tuple[int, ...]) -> None:
    if x.dim() not in axes:
        raise ValueError(f"{module} got an input of shape {tuple(x.shape)}")


def _rescaled(kept: _Statistics, scale: Tensor | None) -> _Statistics:
    mean, variance = kept
    if scale is None or mean is None or variance is None:
        return kept
    dtype = wide(mean).dtype
    return wide(mean) * scale.to(dtype), wide(variance) * scale.square().to(dtype)


@torch.no_grad()
def _blend(kept: _Statistics, new: _Statistics, scale: Tensor | None, momentum: Any) -> None:
    """Move running statistics towards those of the batch."""
    for power, (old, given) in enumerate(zip(kept, new, strict=True), start=1):
        if old is None or given is None:
            continue
        dtype = wide(old).dtype
        given = wide(given) if scale is None else wide(given) / (scale**power).to(dtype)
        part = torch.as_tensor(momentum, dtype=torch.float64, device=old.device)
        old.copy_(wide(old) * (1 - part).to(dtype) + given * part.to(dtype))
