"""Poolings with a member axis: the images of all members as one batch, in the order they lie in.

Where the members stand beside the channels in memory, as a grouped convolution leaves them, they
are more channels; else they are more images. Either way nothing is copied.

Shapes: N members, B images of one member, C channels; x_NBC...
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from chimera.stack.rules.table import rule
from chimera.stack.rules.together import is_together, together

_NAME = "images of all members"
_AXES: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d), 1),
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d), 2),
    **dict.fromkeys((nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d), 3),
}


def pool(module: nn.Module, x: Tensor) -> Any:
    """``forward`` of a pooling for all members."""
    several = isinstance(x, Tensor) and x.dim() == _AXES[type(module)] + 2
    if not several or not is_together(x):
        return type(module).forward(module, x)
    return together(_pooled, module, x)


for _kind in _AXES:
    rule(_kind, _NAME)(pool)


def _pooled(size: int, module: nn.Module, x_NBC: Tensor) -> Any:
    beside = x_NBC.stride(0) < x_NBC.stride(1)
    images = x_NBC.transpose(0, 1).flatten(1, 2) if beside else x_NBC.flatten(0, 1)
    found = type(module).forward(module, images)
    if isinstance(found, Tensor):
        return _parted(found, size, beside)
    return tuple(_parted(each, size, beside) for each in found)


def _parted(images: Tensor, size: int, beside: bool) -> Tensor:
    axis = int(beside)
    parted: Tensor = images.unflatten(axis, (size, images.shape[axis] // size))
    return parted.transpose(0, 1) if beside else parted
