"""Which members hold a parameter frozen, where some do and some do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from chimera.paths.structure import Slot


class Frozen:
    """The rows of a group's parameters that must not move, by the path of the parameter.

    A parameter that all members hold frozen, or none, has no rows here: its ``requires_grad`` says
    so. A tensor of rows is never changed in place.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}

    def note(self, slot: Slot, frozen: Iterable[bool]) -> None:
        """Take note of who holds the parameter of a slot frozen, by member."""
        rows = list(frozen)
        self._rows.pop(slot.path, None)
        if any(rows) and not all(rows):
            self._rows[slot.path] = torch.tensor(rows)

    def clear(self) -> None:
        """Let no member hold a parameter frozen that others do not."""
        self._rows.clear()

    def of(self, slot: Slot, stacked: Tensor) -> Tensor | None:
        """Which members hold the parameter of a slot frozen ``[members]`` bool; None for none."""
        rows = self._rows.get(slot.path)
        if rows is None:
            return None if stacked.requires_grad else torch.ones(len(stacked), dtype=torch.bool)
        return rows

    def moves(self, slot: Slot, stacked: Tensor, place: int) -> bool:
        """Whether a member does not hold the parameter of a slot frozen."""
        rows = self._rows.get(slot.path)
        return stacked.requires_grad and (rows is None or not rows[place])

    @property
    def constants(self) -> tuple[tuple[str, tuple[bool, ...]], ...]:
        """All of it, to compare."""
        return tuple((path, tuple(rows.tolist())) for path, rows in self._rows.items())

    def cut(
        self, slots: Sequence[Slot], tensors: list[Tensor], span: range | None = None
    ) -> list[Tensor]:
        """The stacked tensors such that no gradient reaches a frozen member's row.

        Args:
            slots: the group's.
            tensors: one a slot, ``[members, ...]``.
            span: the members that they are of; None for all.
        """
        if not self._rows:
            return tensors
        found = list(tensors)
        for index, (slot, tensor) in enumerate(zip(slots, tensors, strict=True)):
            rows = self._rows.get(slot.path)
            if rows is not None and tensor.requires_grad:
                rows = rows if span is None else rows[span.start : span.stop]
                mask = rows.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
                found[index] = torch.where(mask, tensor.detach(), tensor)
        return found
