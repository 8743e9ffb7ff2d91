"""What the members of a group carry, put together from parts that several processes took.

Each part tells of its own members in its own way: an attribute may be one value for all members of
one part, differ among those of another, and be as at the start in a third.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chimera.stack.carry import INITIAL, GroupState


def assemble(parts: Sequence[GroupState], ids: Sequence[int]) -> GroupState:
    """The state of the members ``ids``, in this order, each of which is in one of ``parts``.

    Raises:
        ValueError: a member is in none, or the parts hold different tensors.
    """
    wanted = set(ids)
    mine = [part for part in parts if not wanted.isdisjoint(part.members)]
    held = [part.members for part in mine]
    tensors = rows(held, [part.tensors for part in mine], ids)
    own, attributes = _attributes(mine, ids)
    plans: dict[str, dict[str, Any]] = {}
    for part in reversed(mine):
        plans |= part.plans
    return GroupState(list(ids), tensors, mine[0].new, attributes, own, plans)


def rows(
    held: Sequence[Sequence[int]], tensors: Sequence[Mapping[str, Tensor]], ids: Sequence[int]
) -> dict[str, Tensor]:
    """The rows of ``ids``, in their order, of every tensor; what is one number for all stays so.

    Args:
        held: for each part the ids of its members, in the order of the rows.
        tensors: of each part, by name: ``[members of the part, ...]``, or one number.
        ids: the members wanted.

    Raises:
        ValueError: a member is in no part, or the parts hold different tensors.
    """
    place = {id_: row for row, id_ in enumerate(id_ for part in held for id_ in part)}
    missing = [id_ for id_ in ids if id_ not in place]
    if missing:
        raise ValueError(f"member {missing[0]} is not in it")
    names = sorted(tensors[0]) if tensors else []
    if any(sorted(part) != names for part in tensors):
        raise ValueError("its parts hold different tensors")
    if list(place) == list(ids):
        order = None
    else:
        order = torch.tensor([place[id_] for id_ in ids], dtype=torch.int64)
    found = {}
    for name in names:
        parts = [part[name] for part in tensors]
        if all(part.dim() == 0 and torch.equal(part, parts[0]) for part in parts):
            found[name] = parts[0]
            continue
        whole = [
            part.expand(len(ids_)) if part.dim() == 0 else part
            for part, ids_ in zip(parts, held, strict=True)
        ]
        joined = whole[0] if len(whole) == 1 else torch.cat(whole)
        found[name] = joined if order is None else joined.index_select(0, order)
    return found


def _attributes(
    parts: Sequence[GroupState], ids: Sequence[int]
) -> tuple[list[tuple[int, str, list[Any]]], list[tuple[int, str, Any]]]:
    """What differs between the members, one value each, and what is the same for all of them."""
    values: dict[tuple[int, str], dict[int, Any]] = {}
    apart: set[tuple[int, str]] = set()
    for part in parts:
        for module, name, mine in part.own:
            apart.add((module, name))
            values.setdefault((module, name), {}).update(zip(part.members, mine, strict=True))
        for module, name, value in part.attributes:
            values.setdefault((module, name), {}).update(dict.fromkeys(part.members, value))
    own, attributes = [], []
    for where, by_id in values.items():
        found = [by_id.get(id_, INITIAL) for id_ in ids]
        first = found[0]
        if where not in apart and all(_same(value, first) for value in found):
            attributes.append((*where, first))
        else:
            own.append((*where, found))
    return own, [said for said in attributes if said[2] is not INITIAL]


def _same(one: Any, other: Any) -> bool:
    if one is INITIAL or other is INITIAL:
        return one is other
    return json.dumps(one) == json.dumps(other)
