"""Attributes that members have of their own: copied from member to member, and linked.

A container that a call wrote under several names stands in all of them for every member.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from chimera.paths.nest import flatten
from chimera.paths.shared import Links, link
from chimera.paths.walk import join
from chimera.stack.group import Group

Where = tuple[int, str]
"""A module of a group's template, by index, and the name of an attribute."""


def link_written(group: Group, links: Links) -> None:
    """Let containers that a call wrote stand in several places, as they did in the call.

    Raises:
        TypeError: one stands beside values that differ between members, and beside tensors.
    """
    for one in links:
        wheres = {stand[:2] for stand in one}
        if wheres.isdisjoint(group.own):
            link([module.__dict__ for _, module in group.reading.modules], (one,))
        else:
            _let_differ(group, wheres - group.own.keys())
            for place in range(len(group)):
                held = group.own_of(place)
                link(held, (one,))
                for index, name in wheres:
                    group.own[index, name][place] = held[index][name]
    if links:
        group.read_again({})


def _let_differ(group: Group, wheres: set[Where]) -> None:
    """Give each member a value of its own of attributes that are the same for all."""
    modules = [module for _, module in group.reading.modules]
    tensors = {(place.module, place.name) for slot in group.slots for place in slot.places}
    for index, name in sorted(wheres):
        if (index, name) in tensors:
            raise TypeError(
                f"{join(group.reading.modules[index][0], name)}: forward wrote one object under "
                "this name, where it holds tensors, and under another, where it holds what differs "
                "between members; let the module keep it under one name"
            )
        value, same = modules[index].__dict__[name], as_in(modules, modules)
        group.own[index, name] = [transferred(value, dict(same)) for _ in range(len(group))]


def as_in(source: Sequence[nn.Module], target: Sequence[nn.Module]) -> dict[int, Any]:
    """What lets the modules of one tree become the other's in ``transferred``."""
    return {id(old): new for old, new in zip(source, target, strict=True)}


def transferred(value: Any, memo: dict[int, Any]) -> Any:
    """An independent copy of an attribute's value; ``memo`` knows what was copied already."""
    for leaf in flatten(value, objects=True)[0]:
        if isinstance(leaf, Tensor):
            memo[id(leaf)] = leaf.detach().clone()
    return copy.deepcopy(value, memo)
