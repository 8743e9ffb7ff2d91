"""What optimizers ask of a parameter before they compute with it."""

import torch
from torch import Tensor

from chimera.optim.groups import Entry


def gradient(entry: Entry) -> Tensor:
    """The gradient of a parameter that has one."""
    assert entry.parameter.grad is not None
    return entry.parameter.grad


def as_real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, the same memory; a real one itself."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def wide(parameter: Tensor) -> torch.dtype:
    """The real dtype to compute with: the parameter's, or float32 where that is narrower."""
    real = parameter.real.dtype if parameter.is_complex() else parameter.dtype
    return torch.promote_types(real, torch.float32)


def has_fused(parameter: Tensor) -> bool:
    """Whether torch's fused optimizers take ``parameter``."""
    return parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda", "xpu", "mps")
