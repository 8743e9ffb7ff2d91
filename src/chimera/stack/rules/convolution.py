"""Convolutions with a member axis: grouped, or one after the other where that is faster.

Grouped is one convolution with a group a member, bias included. What it takes and gives has the
members beside the channels, ``[B, N, C, ...]``; vmap would copy it to the members-first order and
add the bias in a pass of its own. Poolings keep that order (``images.py``), so that a chain of
convolutions, activations and poolings copies nothing. On a CPU grouped wins while a member's
output is small, and loses to N separate convolutions, which keep the layout that each likes, when
it is large. A batched product of unfolded windows is not taken: where channels and kernel are few
it may be faster than both, elsewhere it is several times slower, and no rule was found that tells
(``benchmarks/convolutions.py``). On a GPU it is always grouped.

Shapes: N members, B images of one member, C channels; x_NBC..., w_NOC...
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.table import rule
from chimera.stack.rules.together import is_together, together

GROUPED_UP_TO = 65_536  # numbers in one member's output
_NAME = "grouped, or separate where large"


@rule(nn.Conv1d, _NAME, casts=True)
@rule(nn.Conv2d, _NAME, casts=True)
@rule(nn.Conv3d, _NAME, casts=True)
def convolution(module: Any, x: Tensor) -> Tensor:
    """``forward`` of the three for all members."""
    axes = len(module.kernel_size)
    if not _runs_here(module, x, axes):
        found: Tensor = type(module).forward(module, x)
        return found
    separate, padding = _is_large(module, x), module.padding
    if module.padding_mode != "zeros":
        x, padding = F.pad(x, _edges(module), mode=module.padding_mode), 0
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
    settings = {"stride": module.stride, "padding": padding, "dilation": module.dilation}
    way = _separately if separate else _grouped
    y: Tensor = together(way, run, settings, module.groups, axes, x, module.weight, module.bias)
    return y


@rule(nn.ConvTranspose1d, _NAME, casts=True)
@rule(nn.ConvTranspose2d, _NAME, casts=True)
@rule(nn.ConvTranspose3d, _NAME, casts=True)
def transposed(module: Any, x: Tensor, output_size: list[int] | None = None) -> Tensor:
    """``forward`` of the three for all members."""
    axes = len(module.kernel_size)
    if output_size is not None or not _runs_here(module, x, axes):
        found: Tensor = type(module).forward(module, x, output_size)
        return found
    run = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[axes]
    names = ("stride", "padding", "output_padding", "dilation")
    settings = {name: getattr(module, name) for name in names}
    way = _separately if _is_large(module, x) else _grouped
    y: Tensor = together(way, run, settings, module.groups, axes, x, module.weight, module.bias)
    return y


def _runs_here(module: Any, x: Any, axes: int) -> bool:
    """Whether a call is one that fits, of members with weights of their own."""
    return bool(
        isinstance(x, Tensor)
        and x.dim() in (axes + 1, axes + 2)
        and x.shape[-axes - 1] == module.in_channels
        and x.dtype == module.weight.dtype
        and is_together(module.weight)
        and not torch.is_autocast_enabled(x.device.type)
    )


def _is_large(module: Any, x: Tensor) -> bool:
    axes = len(module.kernel_size)
    if x.device.type != "cpu":
        return False
    strides = math.prod(module.stride)
    spatial = math.prod(x.shape[-axes:])
    spatial = spatial * strides if module.transposed else spatial // strides
    rows = x.shape[0] if x.dim() == axes + 2 else 1
    return bool(rows * module.out_channels * spatial > GROUPED_UP_TO)


def _edges(module: Any) -> list[int]:
    """What ``F.pad`` adds before and after every axis, the last axis first."""
    if module.padding == "valid":
        return [0] * (2 * len(module.kernel_size))
    if module.padding == "same":
        sums = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [edge for total in reversed(sums) for edge in (total // 2, total - total // 2)]
    return [edge for padding in reversed(module.padding) for edge in (padding, padding)]


def _grouped(
    size: int,
    run: Callable[..., Tensor],
    settings: dict[str, Any],
    groups: int,
    axes: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """One convolution with ``groups`` groups a member; of a shared input one with more channels."""
    several = x.dim() == axes + 3
    weights, biases = weight.flatten(0, 1), None if bias is None else bias.flatten()
    if groups == 1 and size > 1 and x.stride(0) == 0 and "output_padding" not in settings:
        y = run(x[0] if several else x[:1], weights, biases, **settings)
    else:
        x_BNC = x.transpose(0, 1) if several else x.unsqueeze(0)
        y = run(x_BNC.flatten(1, 2), weights, biases, groups=groups * size, **settings)
    y_BNO: Tensor = y.unflatten(1, (size, y.shape[1] // size))
    return y_BNO.transpose(0, 1) if several else y_BNO.squeeze(0)


def _separately(
    size: int,
    run: Callable[..., Tensor],
    settings: dict[str, Any],
    groups: int,
    axes: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    biases = [None] * size if bias is None else bias.unbind(0)
    rows = zip(x.unbind(0), weight.unbind(0), biases, strict=True)
    return torch.stack([run(*row, groups=groups, **settings) for row in rows])
