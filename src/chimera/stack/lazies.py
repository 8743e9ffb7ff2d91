"""Lazy layers shaped by the tensors that a file holds for them, instead of by a first input."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chimera.build.inputs import Inputs
from chimera.build.lazy import initialize, is_lazy, waiting
from chimera.paths.walk import first_paths, join


def shape_lazy(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give torch's own lazy layers in ``module`` the shapes that ``tensors``, by path, imply.

    Each becomes the layer that it becomes on a first call. A lazy class of a user's own is left to
    the hook of ``LazyModuleMixin``, which gives it the shapes when the tensors are loaded.
    """
    for part, path in first_paths(module).items():
        if is_lazy(part) and waiting(part) and type(part).__module__.startswith("torch.nn."):
            shape = _first_input(part, path, tensors)
            if shape is not None:
                with torch.random.fork_rng(devices=[]):
                    initialize(part, Inputs((torch.empty(shape, device="meta"),)))


def _first_input(
    part: nn.Module, path: str, tensors: Mapping[str, Tensor]
) -> tuple[int, ...] | None:
    """The shape of an input that gives ``part`` the shapes of its tensors in the file."""
    weight = tensors.get(join(path, "weight"), tensors.get(join(path, "running_mean")))
    if weight is None or weight.ndim == 0:
        return None
    if weight.ndim == 1:
        return (1, len(weight))
    if weight.ndim == 2:
        return (1, weight.shape[1])
    transposed, groups = getattr(part, "transposed", False), getattr(part, "groups", 1)
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    return (1, channels, *(1 for _ in weight.shape[2:]))
