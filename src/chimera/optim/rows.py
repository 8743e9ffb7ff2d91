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

    Attributes:
        members: those positions, on the CPU.
        shape: of a factor that multiplies the parameter.
    """

    def __init__(self, like: Tensor, members: Tensor) -> None:
        self.members = members.cpu()
        self.shape = (-1, *[1] * (like.dim() - 1))
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
        fits = kept is not None and kept[1].device == device and kept[1].dtype == dtype
        if kept is not None and fits and kept[0] == version:
            return kept[1]
        new = values()[self.members].view(self.shape)
        row = kept[1].copy_(new) if kept is not None and fits else new.to(device, dtype)
        self._kept[key] = (version, row)
        return row
