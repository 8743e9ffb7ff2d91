"""``RReLU`` with a member axis: the slopes are drawn from the members' keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.functions import replaces
from chimera.stack.rules.table import rule


@replaces(F.rrelu)
def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """``F.rrelu``."""
    if training:
        # In memory that is new for every member: an input may be shared.
        drawn = torch.rand(input.shape, dtype=input.dtype, device=input.device)
        slopes = torch.where(input <= 0, drawn * (upper - lower) + lower, 1)
    else:
        # Of two numbers, torch.where makes a tensor of the default dtype.
        slope = torch.full((), (lower + upper) / 2, dtype=input.dtype, device=input.device)
        slopes = torch.where(input <= 0, slope, 1)
    result = input * slopes
    return input.copy_(result) if inplace else result


@rule(nn.RReLU, "slopes from the members' keys", casts=True)
def _rrelu(module: nn.RReLU, input: Tensor) -> Tensor:
    return rrelu(input, module.lower, module.upper, module.training, module.inplace)
