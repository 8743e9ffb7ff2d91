"""Convolutions with a member axis: grouped, as a batched product, or one after the other.

Grouped is one convolution with a group a member, bias included. What it takes and gives has the
members beside the channels, ``[B, N, C, ...]``; vmap would copy it to the members-first order and
add the bias in a pass of its own. Poolings keep that order (``images.py``), so that a chain of
convolutions, activations and poolings copies nothing. A batched product is one of the weights with
the unfolded windows of all images; where a window is one place, with the images themselves.
``way_of`` says which is taken, from the sizes alone, so that the same call always computes the
same.

Shapes: N members, B images of one member, C channels in, O out, K numbers of a window; x_NBC...,
w_NOC...
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.steps import product
from chimera.stack.rules.table import rule
from chimera.stack.rules.together import is_together, together

_NAME = "grouped, a product or separate, by size"


# Fitted to measurements of random shapes, and held against others (``benchmarks/convolutions.py``).
UNFOLDED_UP_TO = 40_000  # numbers in the windows of all members
NARROW_UP_TO = 80_000  # the same, where a window is narrow
NARROW = 9 / 32  # numbers of a window for one channel out
STRIDED_UP_TO = 700_000  # the same, where windows stand more than one place apart
STRIDED = 9 / 16
SEPARATE_FROM = 5_000_000  # numbers that all members take and give
LARGE = 131_072  # numbers that one of them does
PLACES = 128  # of an image, from which on one product an image is worth it
TINY = 400  # multiplications of one product, below which torch makes it in a loop of its own


def way_of(
    members: int,
    images: int,
    places: int,
    window: int,
    after: int,
    taken: int,
    *,
    strided: bool = False,
    unfolds: bool = True,
    pointwise: bool = False,
) -> str:
    """The fastest way on a CPU: ``"grouped"``, ``"product"``, ``"pointwise"`` or ``"separate"``.

    Where a window is one place, an image is a matrix already, and its product with the weights
    wants no window; but a product an image is a call of its own, which small images do not repay
    unless torch makes it by itself. Unfolded windows pay where they are few, sooner where they are
    small beside what is made of them, and more so where they stand apart, which costs a grouped
    convolution most; in a chain what they give is copied, so that they are not taken further. N
    separate convolutions do not lose where members are large and all of them leave the cache: they
    need no copy of what they take.

    Args:
        members: how many.
        images: of one member.
        places: windows of one image.
        window: numbers in one of them.
        after: channels out.
        taken: numbers that one member takes.
        strided: whether windows stand more than one place apart.
        unfolds: whether torch can unfold the windows.
        pointwise: whether a window is one place, unpadded.
    """
    enough = PLACES // 2 if strided else PLACES
    if pointwise and (places >= enough or window * after * places < TINY):
        return "pointwise"
    up_to, narrow = (STRIDED_UP_TO, STRIDED) if strided else (NARROW_UP_TO, NARROW)
    most = up_to if window <= narrow * after else UNFOLDED_UP_TO
    if unfolds and members * images * places * window <= most:
        return "product"
    both = taken + images * places * after
    return "separate" if both > LARGE and members * both > SEPARATE_FROM else "grouped"


@rule(nn.Conv1d, _NAME, casts=True)
@rule(nn.Conv2d, _NAME, casts=True)
@rule(nn.Conv3d, _NAME, casts=True)
def convolution(module: Any, x: Tensor) -> Tensor:
    """``forward`` of the three for all members."""
    axes = len(module.kernel_size)
    if not _runs_here(module, x, axes):
        found: Tensor = type(module).forward(module, x)
        return found
    padding = module.padding
    if module.padding_mode != "zeros":
        x, padding = F.pad(x, _edges(module), mode=module.padding_mode), 0
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
    settings = {"stride": module.stride, "padding": padding, "dilation": module.dilation}
    given = (run, settings, module.groups, axes, x, module.weight, module.bias)
    y: Tensor = together(_convolved, *given)
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
    given = (run, settings, module.groups, axes, x, module.weight, module.bias)
    y: Tensor = together(_convolved, *given)
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


def _edges(module: Any) -> list[int]:
    """What ``F.pad`` adds before and after every axis, the last axis first."""
    if module.padding == "valid":
        return [0] * (2 * len(module.kernel_size))
    if module.padding == "same":
        sums = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [edge for total in reversed(sums) for edge in (total // 2, total - total // 2)]
    return [edge for padding in reversed(module.padding) for edge in (padding, padding)]


def _convolved(
    size: int,
    run: Callable[..., Tensor],
    settings: dict[str, Any],
    groups: int,
    axes: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """The members' convolutions, in the way that is fastest for their sizes."""
    several = x.dim() == axes + 3
    x_NBC = x if several else x.unsqueeze(1)
    transposed, numbers = "output_padding" in settings, not isinstance(settings["padding"], str)
    if x.device.type != "cpu" or x.stride(0) == 0:  # a shared input: one wider convolution
        way = "grouped"
    else:
        after = weight.shape[2] * groups if transposed else weight.shape[1]
        strides = math.prod(settings["stride"])
        places = math.prod(x.shape[-axes:])
        places = places * strides if transposed else max(1, places // strides)
        window = weight.shape[1] // groups if transposed else weight.shape[2]
        window *= math.prod(weight.shape[3:])
        plain = not transposed and groups == 1 and numbers
        single = all(length == 1 for length in weight.shape[3:]) and plain
        pointwise = single and not any(_as_tuple(settings["padding"], axes))
        way = way_of(
            *(size, x_NBC.shape[1], places, window, after, math.prod(x_NBC.shape[1:])),
            strided=strides > 1,
            unfolds=plain and axes < 3,
            pointwise=pointwise,
        )
    if way == "product":
        y = _as_product(x_NBC, weight, bias, settings)
    elif way == "pointwise":
        y = _pointwise(x_NBC, weight, bias, settings)
    elif way == "separate":
        y = _separately(run, settings, groups, x_NBC, weight, bias)
    else:
        y = _grouped(run, settings, groups, x_NBC, weight, bias)
    return y if several else y.squeeze(1)


def _grouped(
    run: Callable[..., Tensor],
    settings: dict[str, Any],
    groups: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """One convolution with ``groups`` groups a member; of a shared input one with more channels."""
    size, weights = len(weight), weight.flatten(0, 1)
    biases = None if bias is None else bias.flatten()
    if groups == 1 and size > 1 and x.stride(0) == 0 and "output_padding" not in settings:
        y = run(x[0], weights, biases, **settings)
    else:
        y = run(x.transpose(0, 1).flatten(1, 2), weights, biases, groups=groups * size, **settings)
    y_BNO: Tensor = y.unflatten(1, (size, y.shape[1] // size))
    return y_BNO.transpose(0, 1)


def _separately(
    run: Callable[..., Tensor],
    settings: dict[str, Any],
    groups: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    biases = [None] * len(weight) if bias is None else bias.unbind(0)
    rows = zip(x.unbind(0), weight.unbind(0), biases, strict=True)
    return torch.stack([run(*row, groups=groups, **settings) for row in rows])


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, settings: dict[str, Any]) -> Tensor:
    """One product of an image's places with the weights, the members beside the channels."""
    index: Any = tuple(slice(None, None, by) for by in _as_tuple(settings["stride"], x.dim() - 3))
    x_BNC = x[(..., *index)].transpose(0, 1)
    y_BNOP = torch.matmul(weight.flatten(2), x_BNC.flatten(3))
    if bias is not None:
        y_BNOP = y_BNOP + bias.unsqueeze(2)
    y: Tensor = y_BNOP.unflatten(3, x_BNC.shape[3:])
    return y.transpose(0, 1)


def _as_product(x: Tensor, weight: Tensor, bias: Tensor | None, settings: dict[str, Any]) -> Tensor:
    """One product a member with the windows of all its images, in one or two dimensions."""
    flat = x.dim() == 4
    names = ("stride", "padding", "dilation")
    stride, padding, dilation = (_as_tuple(settings[name], x.dim() - 3) for name in names)
    kernel: tuple[int, ...] = tuple(weight.shape[3:])
    if flat:
        x, kernel = x.unsqueeze(3), (1, *kernel)
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    places = [
        (side + 2 * pad - wide * (length - 1) - 1) // step + 1
        for side, pad, wide, length, step in zip(
            x.shape[3:], padding, dilation, kernel, stride, strict=True
        )
    ]
    windows = F.unfold(x.flatten(0, 1), kernel, dilation, padding, stride)
    rows_NRK = windows.unflatten(0, x.shape[:2]).transpose(2, 3).flatten(1, 2)
    y_NRO = product(rows_NRK, weight.flatten(2), None)
    y: Tensor = y_NRO.unflatten(1, (x.shape[1], *places)).movedim(-1, 2)
    if bias is not None:
        y = y + bias.view(len(bias), 1, -1, *[1] * len(places))
    return y.squeeze(3) if flat else y


def _as_tuple(value: Any, axes: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
