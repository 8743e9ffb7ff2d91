"""Tensors that a call of one member gave other memory, as ``x.data = y`` does.

A graph may hold what they had, so the stacked tensors move, too, instead of being written over.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chimera.stack.group import Group


class Moved:
    """What members of a group gave other memory in one call."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._rows: dict[int, dict[int, Tensor]] = {}

    def take(self, place: int, seen: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Take note of a member's tensors.

        Args:
            place: of the member.
            seen: stand for the memory that they had, a member's rows of the stacked tensors.
            tensors: one a slot.

        Raises:
            TypeError: a tensor got another shape, dtype or device.
        """
        slots = zip(self._group.slots, seen, tensors, strict=True)
        for index, (slot, before, now) in enumerate(slots):
            known = type(now) in (Tensor, nn.Parameter) and not now.is_meta
            if not known or now.layout != torch.strided or before.is_set_to(now):
                continue
            if (before.shape, before.dtype, before.device) != (now.shape, now.dtype, now.device):
                raise TypeError(
                    f"{slot.path}: forward gives its .data to {tuple(now.shape)} {now.dtype} on "
                    f"{now.device}, a member of a stack keeps {tuple(before.shape)} {before.dtype} "
                    f"on {before.device}; assign a buffer anew instead, as in self.name = value"
                )
            self._rows.setdefault(index, {})[place] = now.detach()

    def settle(self) -> None:
        """Give the stacked tensors memory that holds these rows, and what the others hold."""
        tensors = self._group.tensors()
        for index, rows in self._rows.items():
            whole = tensors[index].data.clone()
            for place, row in rows.items():
                whole[place] = row
            tensors[index].data = whole
        self._rows.clear()
