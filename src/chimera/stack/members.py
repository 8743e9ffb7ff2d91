"""Who is who in a Stack's file: the members of each group, and each member's own names."""

from pathlib import Path
from typing import Any

from torch import Tensor

from chimera.stack.contents import (
    Contents,
    is_extra,
    metadata_of,
    tensor_identity,
    unregistered,
)
from chimera.stack.encoded import Encoded, decoded, tensors_of
from chimera.stack.extra import KEY, extra_in, has_extra
from chimera.stack.group import Group
from chimera.stack.one_member import copied_out
from chimera.stack.regrouped import regrouped
from chimera.stack.stack import Stack
from chimera.store import CheckpointError, TensorFile

Run = list[int]
"""``[first, step, count]``: member ids at equal distances."""


def described(stack: Stack) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """What JSON says of each group of ``stack``, and the tensors of the extra states.

    ``members``: their ids in the order of the rows, as runs. ``names``: from every name that a
    member's file would have to the stacked tensor's. ``unregistered``: those of them that
    ``state_dict`` does not have. ``metadata``: of versions, as ``contents`` has it. ``made``: the
    stacked tensors that calls made. ``extra`` and ``trees``: the extra states, one table for all
    members or a list with one for each, see ``encoded``.
    """
    found = [_described(stack, group, index) for index, group in enumerate(stack._groups)]
    return [said for said, _ in found], {k: v for _, own in found for k, v in own.items()}


def _described(stack: Stack, group: Group, index: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    stacked = {
        id(slot.tensor): f"groups.{index}.{name}"
        for slot, name in zip(group.slots, group.names(), strict=True)
    }
    state = group.template.state_dict(keep_vars=True)
    names = {name: stacked[id(value)] for name, value in state.items() if not is_extra(name)}
    said: set[str] = set()
    extra: list[dict[str, Any]] = []
    trees: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for place in range(len(group)) if has_extra(group) else ():
        one, member = Encoded(), copied_out(group, place)
        for name, value in extra_in(member).items():
            one.add(name, value, f"extra.{index}.{place}.{name}")
        known = {tensor_identity(tensor) for tensor in one.tensors.values()}
        said |= {s.path for s in unregistered(member) if tensor_identity(s.tensor) in known}
        extra.append(one.plain)
        trees.append(one.trees)
        tensors |= one.tensors
    outside = [s for s in unregistered(group.template) if s.path not in {*names, *said}]
    names |= {slot.path: stacked[id(slot.tensor)] for slot in outside}
    return {
        "members": runs([stack.members[position] for position in group.positions]),
        "names": names,
        "unregistered": [slot.path for slot in outside],
        "metadata": metadata_of(state),
        "extra": extra or {},
        "trees": trees or {},
        "made": list(made_by_calls(stack, index)),
    }, tensors


def made_by_calls(stack: Stack, index: int) -> dict[str, Tensor]:
    """The stacked tensors of a group that calls made, which the stack's ``state_dict`` has not."""
    group = stack._groups[index]
    held = zip(group.slots, group.names(), group.tensors(), strict=True)
    return {f"groups.{index}.{name}": t for slot, name, t in held if group.is_made(slot)}


def made_by_all(stack: Stack) -> dict[str, Tensor]:
    """The stacked tensors of all groups that calls made."""
    groups = range(len(stack._groups))
    return {name: t for index in groups for name, t in made_by_calls(stack, index).items()}


def of_stack(file: TensorFile, groups: list[dict[str, Any]], stack: Stack) -> Contents:
    """What the file holds for ``stack``, whose members it has, in whichever groups.

    Raises CheckpointError where it has others.
    """
    own, _ = described(stack)
    _check_members(groups, own, file.path)
    tensors = file.read()
    beside = set(tensors_of([group.get("trees", {}) for group in groups]))
    mine = {name: t for name, t in tensors.items() if name not in beside}
    rows = [[(g, row) for row in range(len(group))] for g, group in enumerate(stack._groups)]
    if _apart(groups) == _apart(own):
        found = Contents(mine)
        found.unregistered = [name for group in groups for name in group.get("made", [])]
    else:
        ids = [ids_of(group["members"]) for group in own]
        named = [group["names"] for group in own]
        theirs = [group | {"members": ids_of(group["members"])} for group in groups]
        other = regrouped(file, theirs, mine, ids, named)
        found, rows = Contents(other.tensors, other.ties), other.rows
        found.unregistered = other.unregistered
    extra = [[_extra(file, groups[g], row, tensors) for g, row in places] for places in rows]
    if any(map(has_extra, stack._groups)):
        found.extra[KEY] = extra
    else:  # unknown to `into`, as names are
        for g, said in enumerate(extra):
            found.extra |= {
                f"groups.{g}.{name}": one for held in said for name, one in held.items()
            }
    return found


def _apart(groups: list[dict[str, Any]]) -> list[Any]:
    """Who is in which group, and where the tensors are that a member's own names mean."""
    return [(group["members"], group["names"]) for group in groups]


def _check_members(groups: list[dict[str, Any]], own: list[dict[str, Any]], path: Path) -> None:
    """Raise CheckpointError where a Stack has not the members of the file."""
    counts = [sum(count for g in each for _, _, count in g["members"]) for each in (groups, own)]
    if counts[0] == counts[1]:
        theirs, mine = (
            sorted(i for g in each for i in ids_of(g["members"])) for each in (groups, own)
        )
        if theirs == mine:
            return
    raise CheckpointError(
        f"{path}: does not fit: its members are {_listed(groups)}, those of `into` {_listed(own)}"
    )


def _extra(
    file: TensorFile, group: dict[str, Any], row: int, tensors: dict[str, Tensor] | None
) -> dict[str, Any]:
    """The extra states of a member; ``tensors`` are the file's where they were read."""
    plain, trees = (
        said[row] if isinstance(said, list) else said
        for said in (group["extra"], group.get("trees", {}))
    )
    if tensors is None:
        tensors = {name: file.read_one(name) for name in tensors_of(trees)}
    return dict(plain) | decoded(trees, tensors, file.path)


def _listed(groups: list[dict[str, Any]]) -> str:
    parts = [
        f"{run[0]} to {_last(run)}" + (f" in steps of {run[1]}" if run[1] != 1 else "")
        if run[2] > 1
        else f"{run[0]}"
        for group in groups
        for run in group["members"]
    ]
    return ", ".join(parts[:8]) + (", ..." if len(parts) > 8 else "")


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
        found = Contents(unregistered=group["unregistered"], metadata=group.get("metadata"))
        first: dict[str, str] = {}
        for name, stacked in group["names"].items():
            if stacked in first:
                found.ties[name] = first[stacked]
            else:
                first[stacked] = name
                found.tensors[name] = rows[stacked]
        found.extra = _extra(file, group, row, None)
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


def ids_of(found: list[Run]) -> list[int]:
    """The ids that ``runs`` described, in order."""
    return [first + step * place for first, step, count in found for place in range(count)]


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
