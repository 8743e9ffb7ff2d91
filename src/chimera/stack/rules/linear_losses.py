"""``LinearCrossEntropyLoss`` with a member axis: its two parts, one after the other.

Alone it may compute gradients in chunks, for tensors that say that they require one; inside vmap
none does, and the gradients would be wrong in silence. Without chunks the result is the same, at
the cost of the memory that they save.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.table import rule


def linear_cross_entropy(module: Any, x: Tensor, y: Tensor) -> Tensor:
    """``LinearCrossEntropyLoss.forward`` for all members."""
    shape = (module.num_classes, *module.out_features)
    bias = module.linear.bias
    loss: Tensor = F.linear_cross_entropy(
        x,
        module.linear.weight.reshape(*shape, module.linear.in_features),
        y,
        linear_bias=None if bias is None else bias.reshape(shape),
        weight=module.weight,
        reduction=module.reduction,
        ignore_index=module.ignore_index,
        label_smoothing=module.label_smoothing,
        options=None,
    )
    return loss


if hasattr(nn, "LinearCrossEntropyLoss"):  # new in torch 2.13
    rule(nn.LinearCrossEntropyLoss, "linear, then cross-entropy")(linear_cross_entropy)
