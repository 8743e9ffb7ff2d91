"""Convolutions with a member axis: grouped, or one after the other where that is faster.

torch batches a convolution as one with a group a member. On a CPU that wins while a member's
output is small, and loses to N separate convolutions, which keep the layout that each likes, when
it is large; a batched product of unfolded windows never won (``benchmarks/convolutions.py``).
On a GPU it is always grouped.

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
    if not _is_large(module, x):
        found: Tensor = type(module).forward(module, x)
        return found
    padding = module.padding
    if module.padding_mode != "zeros":
        x, padding = F.pad(x, _edges(module), mode=module.padding_mode), 0
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(module.kernel_size)]
    settings = (module.stride, padding, module.dilation, module.groups)
    separate: Tensor = together(_separately, run, settings, x, module.weight, module.bias)
    return separate


@rule(nn.ConvTranspose1d, _NAME, casts=True)
@rule(nn.ConvTranspose2d, _NAME, casts=True)
@rule(nn.ConvTranspose3d, _NAME, casts=True)
def transposed(module: Any, x: Tensor, output_size: list[int] | None = None) -> Tensor:
    """``forward`` of the three for all members."""
    if output_size is not None or not _is_large(module, x):
        found: Tensor = type(module).forward(module, x, output_size)
        return found
    run = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
    settings = (
        *(module.stride, module.padding, module.output_padding, module.groups, module.dilation),
    )
    separate: Tensor = together(
        _separately, run[len(module.kernel_size)], settings, x, module.weight, module.bias
    )
    return separate


def _is_large(module: Any, x: Tensor) -> bool:
    axes = len(module.kernel_size)
    if x.device.type != "cpu" or x.dim() < axes + 1 or not is_together(x, module.weight):
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


def _separately(
    size: int,
    run: Callable[..., Tensor],
    settings: tuple[Any, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    biases = [None] * size if bias is None else bias.unbind(0)
    rows = zip(x.unbind(0), weight.unbind(0), biases, strict=True)
    return torch.stack([run(*row, *settings) for row in rows])
