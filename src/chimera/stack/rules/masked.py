"""Numbers written where a mask on data holds: ``x[mask] = value`` without counting the places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chimera.stack.rules.functions import replaces


@replaces(Tensor.__setitem__)
def set_item(x: Tensor, index: Any, value: Any) -> None:
    """``x[index] = value``."""
    if not _is_mask(x, index) or (isinstance(value, Tensor) and value.dim() > 0):
        x[index] = value
        return
    mask = index.view(*index.shape, *[1] * (x.dim() - index.dim()))
    if isinstance(value, Tensor):
        x.copy_(torch.where(mask, value.to(x), x))
    else:
        x.masked_fill_(mask, value)


def _is_mask(x: Tensor, index: Any) -> bool:
    return (
        isinstance(index, Tensor)
        and index.dtype is torch.bool
        and 0 < index.dim() <= x.dim()
        and index.shape == x.shape[: index.dim()]
    )
