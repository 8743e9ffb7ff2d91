"""A Stack's file for a Stack whose members lie in other groups, or in another order.

Groups are a matter of storage: members are in one where nothing but tensors tells them apart, so
that a setting, or an extra state, parts the same members otherwise. What is loaded goes by member,
and by the names that a member's own file would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.store import CheckpointError, TensorFile

Names = dict[str, str]
"""From a member's own names to the stacked tensors'."""


@dataclass
class Regrouped:
    """The stacked tensors of a file as other groups have them.

    Attributes:
        tensors: by the names in those groups; what they do not know under a name that is free.
        ties: of two names there to the first, where both are one tensor in the file.
        unregistered: the names whose tensors stood outside of ``state_dict``.
        rows: for each group and each row of it, the group and the row in the file.
    """

    tensors: dict[str, Tensor]
    ties: dict[str, str]
    unregistered: list[str]
    rows: list[list[tuple[int, int]]]


def regrouped(
    file: TensorFile,
    groups: list[dict[str, Any]],
    tensors: dict[str, Tensor],
    members: list[list[int]],
    names: list[Names],
) -> Regrouped:
    """What ``file`` holds, for other groups of the same members.

    Args:
        file: for messages.
        groups: as the file describes them; ``members`` is a list of ids.
        tensors: of the file.
        members: of the other groups, the ids in the order of their rows.
        names: of the other groups.

    Raises:
        CheckpointError: what is one tensor in a group is two different ones in the file.
    """
    places = {
        member: (g, row)
        for g, group in enumerate(groups)
        for row, member in enumerate(group["members"])
    }
    found = Regrouped({}, {}, [], [[places[member] for member in ids] for ids in members])
    for index, (mine, rows) in enumerate(zip(names, found.rows, strict=True)):
        _fill(found, file, groups, tensors, f"groups.{index}", mine, rows)
    return found


def _fill(
    found: Regrouped,
    file: TensorFile,
    groups: list[dict[str, Any]],
    tensors: dict[str, Tensor],
    label: str,
    mine: Names,
    rows: list[tuple[int, int]],
) -> None:
    """Add the tensors of one group."""
    sources = sorted({g for g, _ in rows})
    theirs: list[Names] = [groups[g]["names"] for g in sources]
    shared = [name for name in theirs[0] if all(name in other for other in theirs[1:])]
    first: dict[tuple[str, ...], str] = {}
    for name in shared:
        stored = tuple(other[name] for other in theirs)
        home = mine.get(name, f"{label}.{name}")
        if any(name in groups[g]["unregistered"] for g in sources):
            found.unregistered.append(home)
        rowed = _rows(file, name, dict(zip(sources, stored, strict=True)), tensors, rows)
        if home in found.tensors:
            if not _equal(found.tensors[home], rowed):
                raise CheckpointError(
                    f"{file.path}: {home!r} and {label + '.' + name!r} are one tensor in `into` "
                    "and two different ones in the file"
                )
        elif stored in first:
            found.ties[home] = first[stored]
        else:
            found.tensors[home] = rowed
        first.setdefault(stored, home)
    for name in {name for other in theirs for name in other}.difference(shared, mine):
        some = next(other[name] for other in theirs if name in other)
        found.tensors[f"{label}.{name}"] = tensors[some]


def _rows(
    file: TensorFile,
    name: str,
    stored: dict[int, str],
    tensors: dict[str, Tensor],
    rows: list[tuple[int, int]],
) -> Tensor:
    """The rows of one tensor, from the groups of the file that hold them."""
    kinds = {(tensors[s].dtype, tensors[s].shape[1:]) for s in stored.values()}
    if len(kinds) > 1:
        said = " and ".join(sorted(f"{str(d)[6:]} {[*shape]}" for d, shape in kinds))
        raise CheckpointError(f"{file.path}: does not fit: {name!r} of its members is {said}")
    dtype, shape = kinds.pop()
    made = torch.empty((len(rows), *shape), dtype=dtype)
    if not made.numel():
        return made
    numbers = _bytes(made)  # not every dtype can be indexed
    for g, held in stored.items():
        here = [(place, row) for place, (group, row) in enumerate(rows) if group == g]
        into, out = torch.tensor(here).unbind(1)
        numbers[into] = _bytes(tensors[held])[out]
    return made


def _bytes(tensor: Tensor) -> Tensor:
    """The bytes of each row ``[rows, bytes]``, in the same memory."""
    return tensor.view(len(tensor), -1).view(torch.uint8)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal bit by bit."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return not one.numel() or torch.equal(_bytes(one), _bytes(other))
