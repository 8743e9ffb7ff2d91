"""``Bilinear`` with a member axis: a batched product, then a weighted sum.

Shapes: B rows of one member, I and J features, O outputs; a_BI, b_BJ, w_OIJ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.functions import replaces
from chimera.stack.rules.table import rule


@replaces(F.bilinear, torch.bilinear)
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.bilinear``."""
    if input1.shape[:-1] != input2.shape[:-1]:
        raise RuntimeError(
            f"bilinear(): the leading axes must be equal, got {list(input1.shape)} and "
            f"{list(input2.shape)}"
        )
    rows, (outputs, i, j) = input1.shape[:-1], weight.shape
    a_BI, b_BJ = input1.reshape(-1, i), input2.reshape(-1, j)
    w_IOJ = weight.transpose(0, 1).reshape(i, outputs * j)
    mixed_BOJ = (a_BI @ w_IOJ).view(-1, outputs, j)
    y_BO = (mixed_BOJ @ b_BJ.unsqueeze(-1)).squeeze(-1)
    y = y_BO.reshape(*rows, outputs)
    return y if bias is None else y + bias


@rule(nn.Bilinear, "batched product")
def _bilinear(module: nn.Bilinear, input1: Tensor, input2: Tensor) -> Tensor:
    return bilinear(input1, input2, module.weight, module.bias)
