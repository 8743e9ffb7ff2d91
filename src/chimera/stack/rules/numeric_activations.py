"""Activations whose numbers differ between members, written out as torch documents them.

Where torch's derivative at a corner is one of two, the same one is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.numeric import (
    any_number,
    exact,
    not_negative,
    number,
    numeric,
    refuse_autocast,
    signed,
    wide,
)
from chimera.stack.rules.table import Forward

Formula = Callable[[Any, Tensor], Tensor]


def _activation(formula: Formula) -> Forward:
    def forward(module: Any, x: Tensor) -> Tensor:
        refuse_autocast(module, x)
        if not x.is_floating_point():
            raise TypeError(f"{type(module).__name__} of a tensor of {x.dtype}")
        y = formula(module, wide(x)).to(x.dtype)
        return x.copy_(y) if getattr(module, "inplace", False) else y

    return forward


@numeric(nn.LeakyReLU, negative_slope=not_negative)
@_activation
def leaky_relu(module: nn.LeakyReLU, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * number(module, "negative_slope", x))


@numeric(nn.ELU, alpha=not_negative)
@_activation
def elu(module: nn.ELU, x: Tensor) -> Tensor:
    below = torch.where(x > 0, 0.0, x)
    return torch.where(x > 0, x, number(module, "alpha", x) * torch.expm1(below))


@numeric(nn.CELU, alpha=signed)
@_activation
def celu(module: nn.CELU, x: Tensor) -> Tensor:
    alpha = number(module, "alpha", x)
    below = torch.where(x > 0, 0.0, x)
    return torch.where(x > 0, x, alpha * torch.expm1(below * (1 / alpha)))


@numeric(nn.Softplus, beta=signed, threshold=any_number)
@_activation
def softplus(module: nn.Softplus, x: Tensor) -> Tensor:
    beta = number(module, "beta", x)
    linear = x * beta > number(module, "threshold", x)
    return torch.where(linear, x, torch.log1p(torch.exp(torch.where(linear, 0.0, x * beta))) / beta)


@numeric(nn.Softshrink, lambd=not_negative)
@_activation
def softshrink(module: nn.Softshrink, x: Tensor) -> Tensor:
    lambd = number(module, "lambd", x)
    return torch.where(x > lambd, x - lambd, torch.where(x < -lambd, x + lambd, x * 0))


@numeric(nn.Hardshrink, lambd=not_negative)
@_activation
def hardshrink(module: nn.Hardshrink, x: Tensor) -> Tensor:
    lambd = number(module, "lambd", x)
    return torch.where((x >= -lambd) & (x <= lambd), 0.0, x)


@numeric(nn.Threshold, threshold=any_number, value=any_number)
@_activation
def threshold(module: nn.Threshold, x: Tensor) -> Tensor:
    below = x <= number(module, "threshold", x)
    return torch.where(below, number(module, "value", x), x)


@numeric(nn.Hardtanh, min_val=any_number, max_val=any_number)
@_activation
def hardtanh(module: nn.Hardtanh, x: Tensor) -> Tensor:
    low, high = number(module, "min_val", x), number(module, "max_val", x)
    return torch.where(x <= low, low, torch.where(x >= high, high, x))


@numeric(nn.LocalResponseNorm, alpha=not_negative, beta=not_negative, k=not_negative)
@_activation
def local_response_norm(module: nn.LocalResponseNorm, x: Tensor) -> Tensor:
    alpha, beta, k = (number(module, name, x) for name in ("alpha", "beta", "k"))
    y: Tensor = F.local_response_norm(x, module.size, alpha, beta, k)
    return y


@numeric(nn.RReLU, lower=not_negative, upper=not_negative)
def rrelu(module: nn.RReLU, x: Tensor) -> Tensor:
    """Slopes below zero; every member draws what the layer alone draws."""
    refuse_autocast(module, x)
    low, width = number(module, "lower", x), exact(module, "upper") - exact(module, "lower")
    if module.training:
        drawn = torch.rand(x.shape, dtype=x.dtype, device=x.device)
        slope = drawn * width.to(x.dtype) + low
    else:
        slope = ((exact(module, "lower") + exact(module, "upper")) / 2).to(x.dtype)
    y = x * torch.where(x <= 0, slope, 1)
    return x.copy_(y) if module.inplace else y
