"""The state of rows that the stack holds frozen, set aside while the other rows move.

torch.optim passes over a parameter without a gradient: its state waits until it is freed. A step of
a stack takes all rows of a parameter at once, so the state of frozen rows is kept here meanwhile,
and what stands in their place in the optimizer's tensors is nobody's. So a step costs nothing more
while rows are frozen; what changes is done once, when some are frozen or freed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from chimera.optim.groups import Aside, Entry
from chimera.optim.state import COUNT


def settle(entry: Entry, tensors: Mapping[str, str]) -> bool:
    """Before a step: set aside the state of rows frozen since, and put back that of those freed.

    Args:
        entry: the parameter.
        tensors: the names of its state, each LIKE, COUNT or ROWS.

    Returns:
        Whether the state has changed.
    """
    frozen = entry.source.frozen
    if frozen is entry.settled or not entry.parameter.requires_grad:
        return False
    entry.settled = frozen
    rows = torch.empty(0, dtype=torch.int64) if frozen is None else frozen.cpu().nonzero()[:, 0]
    if entry.aside is None and not len(rows):
        return False
    entry.state, entry.aside = whole(entry, tensors), None
    if len(rows):
        entry.aside = Aside(rows, {name: _at(held, rows) for name, held in entry.state.items()})
        moving = torch.ones(len(entry.parameter), dtype=torch.bool).index_fill_(0, rows, False)
        for name, what in tensors.items():
            if what == COUNT and entry.state and entry.state[name].dim():
                entry.state[name] = _as_one(entry.state[name], moving)
    return True


def whole(entry: Entry, tensors: Mapping[str, str]) -> dict[str, Tensor]:
    """The state of all rows: the optimizer's own tensors, or copies where some is set aside."""
    aside = entry.aside
    if aside is None or not entry.state:
        return dict(entry.state)
    found = {}
    for name, what in tensors.items():
        held, rows = entry.state[name], aside.rows.to(entry.state[name].device)
        each = held.expand(len(entry.parameter)) if not held.dim() else held
        before = aside.state.get(name)
        put = torch.zeros_like(each[rows]) if before is None else before.to(each.device)
        each = each.detach().index_copy(0, rows, put)
        everyone = torch.ones(len(each), dtype=torch.bool)
        found[name] = _as_one(each, everyone) if what == COUNT else each
    return found


def state_at(entry: Entry, row: int) -> dict[str, Tensor]:
    """The state of one row, copies; empty where there is none."""
    if entry.aside is not None and bool((entry.aside.rows == row).any()):
        place = int((entry.aside.rows == row).nonzero()[0])
        return {name: held[place].clone() for name, held in entry.aside.state.items()}
    return {n: (held[row] if held.dim() else held).clone() for n, held in entry.state.items()}


def put_back(entry: Entry, tensors: Mapping[str, str]) -> None:
    """Let the optimizer's own tensors be the state of all rows until the next step."""
    entry.state, entry.aside, entry.settled = whole(entry, tensors), None, None


def _at(held: Tensor, rows: Tensor) -> Tensor:
    rows = rows.to(held.device)
    return held.expand(len(rows)).clone() if not held.dim() else held.index_select(0, rows)


def _as_one(counts: Tensor, chosen: Tensor) -> Tensor:
    """One count where that of all chosen rows is the same."""
    mine = counts[chosen.to(counts.device)]
    return mine[0].clone() if len(mine) and bool((mine == mine[0]).all()) else counts
