"""Who is who in a Stack's file: the members of each group, and each member's own names."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from chimera.stack.contents import Contents, as_json, unregistered
from chimera.stack.group import Group
from chimera.stack.one_member import copied_out
from chimera.stack.stack import Stack
from chimera.store import CheckpointError, TensorFile

Run = list[int]
"""``[first, step, count]``: member ids at equal distances."""


def described(stack: Stack) -> list[dict[str, Any]]:
    """What JSON says of each group of ``stack``.

    ``members``: their ids in the order of the rows, as runs. ``names``: from every name that a
    member's file would have to the stacked tensor's. ``unregistered``: those of them that
    ``state_dict`` does not have. ``extra``: the extra states, one table for all members or a list
    with one for each.
    """
    return [_described(stack, group, index) for index, group in enumerate(stack._groups)]


def _described(stack: Stack, group: Group, index: int) -> dict[str, Any]:
    stacked = {
        id(slot.tensor): f"groups.{index}.{name}"
        for slot, name in zip(group.slots, group.names(), strict=True)
    }
    names, extra = {}, {}
    for name, value in group.template.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            names[name] = stacked[id(value)]
        else:
            extra[name] = as_json(name, value)
    outside = [slot for slot in unregistered(group.template) if slot.path not in names]
    names |= {slot.path: stacked[id(slot.tensor)] for slot in outside}
    per_member: Any = extra
    if extra and group.own:
        per_member = [_extra(copied_out(group, place)) for place in range(len(group))]
    return {
        "members": runs([stack.members[position] for position in group.positions]),
        "names": names,
        "unregistered": [slot.path for slot in outside],
        "extra": per_member,
    }


def _extra(member: nn.Module) -> dict[str, Any]:
    state = member.state_dict(keep_vars=True)
    return {name: as_json(name, v) for name, v in state.items() if not isinstance(v, Tensor)}


def fits(groups: list[dict[str, Any]], stack: Stack, path: Path) -> None:
    """Raise CheckpointError where ``stack`` has not the members and groups of the file."""
    own = described(stack)
    if [group["members"] for group in groups] != [group["members"] for group in own]:
        raise CheckpointError(
            f"{path}: does not fit: its {_counted(groups)} are others than those of `into`, "
            f"{_counted(own)}"
        )


def _counted(groups: list[dict[str, Any]]) -> str:
    members = sum(count for group in groups for _, _, count in group["members"])
    return f"{members} members in {len(groups)} group{'' if len(groups) == 1 else 's'}"


def one_member(file: TensorFile, groups: list[dict[str, Any]], member: int) -> Contents:
    """What the file holds of the member with the id ``member``; no other member's rows are read.

    Raises ValueError where the file has no such member.
    """
    for index, group in enumerate(groups):
        row = row_of(group["members"], member)
        if row is None:
            continue
        label = f"groups.{index}"
        rows = file.read_row(label, row) if label in file.row_groups else {}
        found = Contents(unregistered=group["unregistered"])
        first: dict[str, str] = {}
        for name, stacked in group["names"].items():
            if stacked in first:
                found.ties[name] = first[stacked]
            else:
                first[stacked] = name
                found.tensors[name] = rows[stacked]
        extra = group["extra"]
        found.extra = extra[row] if isinstance(extra, list) else extra
        return found
    ids = [id_ for group in groups for run in group["members"] for id_ in (run[0], _last(run))]
    raise ValueError(
        f"member: {file.path} holds the members {min(ids)} to {max(ids)}, got {member!r}"
    )


def runs(ids: list[int]) -> list[Run]:
    """``ids`` in order, as few runs ``[first, step, count]``."""
    found: list[Run] = []
    for id_ in ids:
        if found and found[-1][2] == 1:
            found[-1][1:] = [id_ - found[-1][0], 2]
        elif found and id_ == _last(found[-1]) + found[-1][1]:
            found[-1][2] += 1
        else:
            found.append([id_, 1, 1])
    return found


def row_of(found: list[Run], id_: int) -> int | None:
    """The place of ``id_`` in what ``runs`` described, or None."""
    before = 0
    for first, step, count in found:
        place, rest = divmod(id_ - first, step) if step else (0, id_ - first)
        if rest == 0 and 0 <= place < count:
            return before + place
        before += count
    return None


def _last(run: Run) -> int:
    first, step, count = run
    return first + step * (count - 1)
