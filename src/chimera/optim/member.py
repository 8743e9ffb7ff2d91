"""The optimizer state of one member, in the layout that ``torch.optim`` has for its module alone.

Contract: ``torch.optim.AdamW(module.parameters())`` goes on from a member's state exactly, and the
member from that optimizer's. Parameters are numbered as torch numbers them: in the order of
``module.parameters()``, those of parameter group 0 first, then those of each further group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chimera.optim.aside import put_back, state_at
from chimera.optim.groups import Entry, ParameterGroup
from chimera.optim.state import COUNT, LIKE, ROWS, empty_state

# How torch computes, not what; and what learning rate schedulers note.
_HOW = {"foreach", "capturable", "differentiable", "fused", "initial_lr"}

Change = tuple[Entry, int, dict[str, Any]]
"""A parameter, the member's row in it, and the state that it gets."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What an optimizer of a stack keeps.

    Attributes:
        kind: the name of its class in ``torch.optim``.
        groups: its parameter groups.
        pairs: settings that go two at a time.
        options: switches.
        tensors: the names of a parameter's state, each LIKE, COUNT or ROWS.
    """

    kind: str
    groups: Sequence[ParameterGroup]
    pairs: Mapping[str, tuple[str, str]]
    options: Mapping[str, bool]
    tensors: Mapping[str, str]


def state_of_member(layout: Layout, position: int) -> dict[str, Any]:
    """A ``state_dict`` of torch's optimizer for the member at ``position`` in the stack.

    Returns:
        Its tensors are copies.
    """
    mine = [_of_member(group, position) for group in layout.groups]
    tensors, state = layout.tensors, _blank(layout, mine, position)
    found = [pair for part in mine for pair in part]
    for number, (entry, row) in enumerate(found):
        own = state_at(entry, row)
        if own and _has_stepped(entry, row, own, tensors):
            state["state"][number] = {n: own[n] for n, what in tensors.items() if what != ROWS}
    return state


def checked_member_state(
    layout: Layout, position: int, given: Any
) -> tuple[list[dict[str, Any]], list[Change]]:
    """What a ``state_dict`` of torch's optimizer says of a member.

    Returns:
        For every group the settings, by the names of the constructor; and the tensors, for
        ``write``.

    Raises:
        ValueError: the state is of another optimizer or of other parameters.
    """
    kind = layout.kind
    mine = [_of_member(group, position) for group in layout.groups]
    wanted = _blank(layout, mine, position)
    if not isinstance(given, Mapping) or not {"state", "param_groups"} <= given.keys():
        raise ValueError(f"{kind}: expected the state_dict() of a torch.optim.{kind}")
    theirs = given["param_groups"]
    if [len(group["params"]) for group in theirs] != [len(part) for part in mine]:
        raise ValueError(
            f"{kind}: the state has groups of {[len(g['params']) for g in theirs]} parameters, "
            f"member {position} of {[len(part) for part in mine]}."
        )
    settings = [
        _settings(kind, ours, theirs_, set(layout.options))
        for ours, theirs_ in zip(wanted["param_groups"], theirs, strict=True)
    ]
    changes = []
    for part, group in zip(mine, theirs, strict=True):
        for (entry, row), number in zip(part, group["params"], strict=True):
            own = given["state"].get(number, {})
            own = {name: value for name, value in own.items() if value is not None}
            _check_tensors(kind, entry, own, layout.tensors)
            changes.append((entry, row, own))
    return settings, changes


def _of_member(group: ParameterGroup, position: int) -> list[tuple[Entry, int]]:
    """The parameters of a group that the member has, and its row in each."""
    found = []
    for entry in group.entries:
        places = (entry.rows.members == position).nonzero()
        if len(places):
            found.append((entry, int(places[0])))
    return found


def _blank(layout: Layout, mine: Sequence[Sequence[Any]], position: int) -> dict[str, Any]:
    """The state of a fresh optimizer of torch with the member's settings."""
    parts = []
    for group, part in zip(layout.groups, mine, strict=True):
        values: dict[str, Any] = {
            name: float(setting.values()[position]) for name, setting in group.settings.items()
        }
        for pair, names in layout.pairs.items():
            values[pair] = tuple(values.pop(name) for name in names)
        dummies = [nn.Parameter(torch.empty(0)) for _ in part]
        parts.append({"params": dummies, **values, **layout.options})
    made: torch.optim.Optimizer = getattr(torch.optim, layout.kind)(parts)
    return made.state_dict()


def _has_stepped(
    entry: Entry, row: int, own: Mapping[str, Tensor], tensors: Mapping[str, str]
) -> bool:
    """Whether torch would hold a state of the parameter: not before its first step.

    Rows that the optimizer was told to leave have no state of theirs any more.
    """
    if entry.held is not None and bool((entry.held == row).any()):
        return False
    return all(bool(own[name]) for name, what in tensors.items() if what in (COUNT, ROWS))


def _settings(
    kind: str, ours: dict[str, Any], theirs: dict[str, Any], options: set[str]
) -> dict[str, Any]:
    differ = sorted((ours.keys() ^ theirs.keys()) - _HOW)
    if differ:
        raise ValueError(f"{kind}: the state is not of a torch.optim.{kind}: {differ} differ.")
    values = {}
    for name in ours.keys() - _HOW - {"params"}:
        if isinstance(ours[name], bool):
            if ours[name] != theirs[name]:
                said = "" if name in options else ", which a stack's optimizer has not"
                raise ValueError(f"{kind}: the state has {name}={theirs[name]}{said}.")
        else:
            values[name] = theirs[name]
    return values


def _check_tensors(
    kind: str, entry: Entry, own: Mapping[str, Any], tensors: Mapping[str, str]
) -> None:
    wanted = {name for name, what in tensors.items() if what != ROWS}
    if own and set(own) != wanted:
        raise ValueError(
            f"{kind}: the state of {entry.name} has {sorted(own)}, expected {sorted(wanted)}."
        )
    for name, value in own.items():
        shape = entry.parameter.shape[1:] if tensors[name] == LIKE else ()
        if torch.as_tensor(value).shape != shape:
            raise ValueError(
                f"{kind}: {name} of {entry.name} is {tuple(torch.as_tensor(value).shape)}, "
                f"a member's is {tuple(shape)}."
            )


def write(change: Change, tensors: Mapping[str, str]) -> None:
    """Let the state of a member's parameter be what ``checked_member_state`` found."""
    entry, row, own = change
    put_back(entry, tensors)
    if not own and not entry.state:
        return
    if not entry.state:
        entry.state = empty_state(entry, tensors)
    for name, what in tensors.items():
        held = entry.state[name]
        if what == ROWS:
            held[row] = bool(own)
        elif what == LIKE:
            held[row] = own[name] if own else 0
        else:
            each = held.expand(len(entry.parameter)).clone()
            each[row] = torch.as_tensor(own[name]) if own else 0
            same = bool((each == each[0]).all())
            entry.state[name] = each[0].clone() if same else each
