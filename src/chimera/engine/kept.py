"""What a recording writes of Python's values and tensors, put back.

Contract: after ``put_back`` every place holds what it held, the very same object; of tensors, the
same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from chimera.engine.places import GONE, Places
from chimera.paths.structure import DERIVED
from chimera.paths.version import unchanged, version


class Kept:
    """Copies of the places of values, to be put back."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._spaces = [dict(space) for _, space in places.spaces]
        self._values = [space.get(key, GONE) for space, key in _pairs(places)]
        self._classes = [dict(vars(kind)) for kind in places.classes]
        self._cells = [cell.cell_contents for _, cell in places.cells]
        self._lists = [list(items) for _, items in places.lists]
        self._sets = [set(items) for _, items in places.sets]
        self._arrays = [array.copy() for _, array in places.arrays]
        self._tensors = [(version(t), t.detach().clone()) for _, t in places.tensors]
        self._slots = [getattr(thing, name, GONE) for _, thing, name in places.slots]

    def put_back(self) -> list[str]:
        """Let everything be as it was; gives the names of what was not."""
        return [
            *self._in_spaces(),
            *self._one_by_one(),
            *self._in_containers(),
            *self._in_tensors(),
        ]

    def _in_spaces(self) -> list[str]:
        wrote = []
        for (place, space), before in zip(self._places.spaces, self._spaces, strict=True):
            names = _different(space, before)
            if names:
                wrote += [f"{place}.{name}" for name in names if name not in DERIVED]
                space.clear()
                space.update(before)
        for kind, own in zip(self._places.classes, self._classes, strict=True):
            for name in _different(vars(kind), own):
                wrote.append(f"{kind.__name__}.{name}")
                if name in own:
                    setattr(kind, name, own[name])
                else:
                    delattr(kind, name)
        return wrote

    def _one_by_one(self) -> list[str]:
        wrote, places = [], self._places
        pairs = zip(_pairs(places), places.names, self._values, strict=True)
        for (space, key), place, value in pairs:
            if space.get(key, GONE) is value:
                continue
            wrote.append(place)
            if value is GONE:
                del space[key]
            else:
                space[key] = value
        for (name, cell), contents in zip(places.cells, self._cells, strict=True):
            if cell.cell_contents is not contents:
                wrote.append(name)
                cell.cell_contents = contents
        for (place, thing, name), value in zip(places.slots, self._slots, strict=True):
            if getattr(thing, name, GONE) is not value:
                wrote.append(place)
                if value is GONE:
                    delattr(thing, name)
                else:
                    setattr(thing, name, value)
        return wrote

    def _in_containers(self) -> list[str]:
        wrote = []
        for (place, items), before in zip(self._places.lists, self._lists, strict=True):
            if len(items) != len(before) or any(a is not b for a, b in zip(items, before)):  # noqa: B905
                wrote.append(place)
                items.clear()
                items.extend(before)
        for (place, members), had in zip(self._places.sets, self._sets, strict=True):
            if members != had:
                wrote.append(place)
                members.clear()
                members.update(had)
        for (place, array), numbers in zip(self._places.arrays, self._arrays, strict=True):
            if array.tobytes() != numbers.tobytes():
                wrote.append(place)
                array[...] = numbers
        return wrote

    @torch.no_grad()
    def _in_tensors(self) -> list[str]:
        wrote = []
        for (place, tensor), (at, copy) in zip(self._places.tensors, self._tensors, strict=True):
            if not unchanged(tensor, at) or not _equal(tensor, copy):
                wrote.append(place)
                tensor.copy_(copy)
        return wrote


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are the same; batch norm changes some that torch does not count."""
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _pairs(places: Places) -> list[tuple[dict[Any, Any], Any]]:
    return list(zip(places.dicts, places.keys, strict=True))


def _different(now: Mapping[Any, Any], before: Mapping[Any, Any]) -> list[Any]:
    """The names whose values are others."""
    names = {**before, **now}
    return [n for n in names if now.get(n, GONE) is not before.get(n, GONE)]
