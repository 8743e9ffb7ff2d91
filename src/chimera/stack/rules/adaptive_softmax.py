"""``AdaptiveLogSoftmaxWithLoss`` with a member axis: every cluster for every row, then a choice.

Alone it computes a cluster for the rows whose target lies in it, which members do not share.
The class of its result, ``_ASMoutput``, is reached here alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.adaptive import _ASMoutput

from chimera.stack.rules.functions import Unstackable
from chimera.stack.rules.table import rule


@rule(nn.AdaptiveLogSoftmaxWithLoss, "all clusters, masked")
def adaptive_log_softmax(module: Any, input_: Tensor, target_: Tensor) -> Any:
    """``AdaptiveLogSoftmaxWithLoss.forward`` for all members."""
    if input_.dim() != target_.dim() + 1 or target_.dim() > 1:
        raise Unstackable("input [B, features] and target [B], or one row of both")
    x_BI = input_ if target_.dim() else input_.unsqueeze(0)
    y_B = target_ if target_.dim() else target_.unsqueeze(0)
    if len(x_BI) != len(y_B):
        raise RuntimeError("Input and target should have the same size in the batch dimension.")
    place_B = y_B  # a target out of range keeps a place that gather refuses
    log_B = torch.zeros_like(y_B, dtype=x_BI.dtype)
    for i, (low, high) in enumerate(zip(module.cutoffs, module.cutoffs[1:], strict=False)):
        inside_B = (y_B >= low) & (y_B < high)
        logs_BC = F.log_softmax(module.tail[i](x_BI), dim=1)
        own_B1 = (y_B - low).clamp(0, high - low - 1).unsqueeze(1)
        log_B = torch.where(inside_B, logs_BC.gather(1, own_B1).squeeze(1), log_B)
        place_B = torch.where(inside_B, module.shortlist_size + i, place_B)
    head_BC = F.log_softmax(module.head(x_BI), dim=1)
    log_B = log_B + head_BC.gather(1, place_B.unsqueeze(1)).squeeze(1)
    loss = (-log_B).mean()
    output = log_B if target_.dim() else log_B.squeeze(0)
    return _ASMoutput(output, loss)
