"""Containers that stand under several names: found, and put in every place again.

A list, a dict or an object is one thing however many attributes lead to it: what is written by one
name is read by the others. Whoever makes a container anew must let it stand in all its places.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from torch import Tensor, nn

from chimera.paths.nest import is_plain, parts_of, with_part

Holders = Sequence[MutableMapping[str, Any]]
"""By module, the attributes that may hold containers."""

Stand = tuple[int, str, tuple[int, ...]]
"""Where a container stands: in which holder, under which name, in which part of which part."""

Links = tuple[tuple[Stand, ...], ...]
"""For each container that stands in several places: all of them."""


def shared(holders: Holders) -> Links:
    """The containers that can change and stand in several places, the outer ones first."""
    found: dict[int, list[Stand]] = {}
    for index, holder in enumerate(holders):
        for name, value in holder.items():
            if not (is_plain(value) or isinstance(value, (Tensor, nn.Module))):
                _walk(value, (index, name, ()), found, ())
    return tuple(tuple(stands) for stands in found.values() if len(stands) > 1)


def _walk(value: Any, stand: Stand, found: dict[int, list[Stand]], above: tuple[int, ...]) -> None:
    parts = None if id(value) in above else parts_of(value)
    if parts is None:
        return
    if not isinstance(value, tuple):
        stands = found.setdefault(id(value), [])
        stands.append(stand)
        if len(stands) > 1:  # what it holds stands there with it
            return
    index, name, path = stand
    for place, part in enumerate(parts):
        if not is_plain(part):
            _walk(part, (index, name, (*path, place)), found, (*above, id(value)))


def link(holders: Holders, links: Links) -> None:
    """Let the container at the first place of each link stand in all places of it."""
    for (index, name, path), *others in links:
        value = holders[index][name]
        for place in path:
            value = _part(value, place)
        for index, name, path in others:
            holders[index][name] = _with(holders[index][name], path, value)


def _part(value: Any, place: int) -> Any:
    parts = parts_of(value)
    assert parts is not None, "links are of the nesting that they were found in"
    return parts[place]


def _with(value: Any, path: tuple[int, ...], new: Any) -> Any:
    if not path:
        return new
    old = _part(value, path[0])
    part = _with(old, path[1:], new)
    return value if part is old else with_part(value, path[0], part)
