"""Factors of members, shaped to multiply a stacked parameter.

Contract: a factor is computed from the settings once, in float64, and kept on the parameter's
device until a setting changes; then the same tensor is filled anew, so that what has captured it
sees the change.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class Rows:
    """The factors of one stacked parameter.

    Args:
        like: the parameter (a complex one as real numbers) ``[members of the group, ...]``.
        members: the positions in the stack of its rows.
    """

    def __init__(self, like: Tensor, members: Tensor) -> None:
        self._members = members.cpu()
        self._shape = (-1, *[1] * (like.dim() - 1))
        self._kept: dict[str, tuple[int, Tensor]] = {}

    def get(
        self,
        key: str,
        version: int,
        device: torch.device,
        dtype: torch.dtype,
        values: Callable[[], Tensor],
    ) -> Tensor:
        """The factor ``key`` ``[members of the group, 1, ...]``.

        Args:
            key: the factor's name.
            version: of the settings; the factor is kept while it stays the same.
            device: of the parameter.
            dtype: of the factor.
            values: computes the factor of every member of the stack ``[N]``, float64.
        """
        kept = self._kept.get(key)
        if kept is not None and kept[0] == version and kept[1].device == device:
            return kept[1]
        new = values()[self._members].view(self._shape)
        if kept is not None and kept[1].device == device:
            row = kept[1].copy_(new)
        else:
            row = new.to(device, dtype)
        self._kept[key] = (version, row)
        return row


def row_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype for factors of a parameter: its own, or float32 where that is narrower."""
    return torch.promote_types(parameter.dtype, torch.float32)
