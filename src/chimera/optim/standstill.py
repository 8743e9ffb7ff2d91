"""Rows that a step leaves alone: those of frozen members, and of members that had no gradient.

A step moves all rows of a parameter; then these are put back. A frozen row keeps its values. A row
that no gradient reached keeps its state too, as torch.optim passes over a parameter without one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chimera.optim.arithmetic import gradient
from chimera.optim.groups import Entry
from chimera.optim.state import COUNT
from chimera.stack.absent import absent


class Standstill:
    """What a step must leave of one parameter, remembered before it.

    Args:
        entry: the parameter, which has a gradient.
        tensors: the names of its state, each LIKE, COUNT or ROWS.
    """

    def __init__(self, entry: Entry, tensors: dict[str, str]) -> None:
        self._entry, self._tensors = entry, tensors
        self._frozen = entry.frozen
        left_out = absent(gradient(entry)) if entry.source.partial else None
        self._passed = None if left_out is None else left_out.nonzero()[:, 0]
        self._still = _together(self._frozen, self._passed)
        if self._still is not None:
            self._values = entry.parameter.index_select(0, self._still)
        if self._passed is not None:
            self._state = {name: self._rows(entry.state.get(name), name) for name in tensors}

    def _rows(self, held: Tensor | None, name: str) -> Tensor | None:
        """The state of the rows that are passed over; None where there is none yet."""
        assert self._passed is not None
        if held is None:
            return None
        if held.dim() == 0:
            return held.expand(len(self._passed)).clone()
        return held.index_select(0, self._passed.to(held.device))

    def put_back(self) -> None:
        """Let the rows be as they were before the step."""
        if self._still is not None:
            self._entry.parameter.index_copy_(0, self._still, self._values)
        if self._passed is None:
            return
        held: Tensor
        for name, held in self._entry.state.items():
            rows, before = self._passed.to(held.device), self._state[name]
            counts = self._tensors[name] == COUNT
            if counts and held.dim() == 0:
                held = held.expand(len(self._entry.parameter)).clone()
            if before is None:
                held.index_fill_(0, rows, 0)
            else:
                held.index_copy_(0, rows, before)
            same = counts and bool((held == held[0]).all())
            self._entry.state[name] = held[0].clone() if same else held


def _together(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    both: Tensor = torch.cat([one, other]).unique()
    return both
