"""``GroupNorm`` with a member axis: the groups of all members, in torch's own kernel.

torch batches it without the weights, and then scales and shifts; the gradients of weight and bias
are then plain sums, whose rounding is not the kernel's.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.table import rule
from chimera.stack.rules.together import is_together, together


@rule(nn.GroupNorm, "groups of all members")
def group_norm(module: nn.GroupNorm, x: Tensor) -> Tensor:
    """``GroupNorm.forward`` for all members."""
    settings = (module.num_groups, module.eps)
    if x.dim() < 2 or not is_together(x, module.weight):
        return F.group_norm(x, module.num_groups, module.weight, module.bias, module.eps)
    found: Tensor = together(_all_groups, x, module.weight, module.bias, *settings)
    return found


def _all_groups(
    size: int, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
) -> Tensor:
    images = x.transpose(0, 1)  # [images, members, channels, ...]
    y = F.group_norm(
        images.flatten(1, 2),
        size * groups,
        None if weight is None else weight.flatten(),
        None if bias is None else bias.flatten(),
        eps,
    )
    return y.reshape(images.shape).transpose(0, 1)
