"""What a call can read of Python, as it stands.

Contract: ``holds`` says whether every value that has a place is what it was, in microseconds.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from itertools import repeat
from operator import attrgetter, is_
from types import CellType
from typing import Any

from torch import Tensor, nn

from chimera.engine.places import GONE, Places

_KIND = attrgetter("requires_grad", "dtype", "device", "shape", "layout")


class Reached:
    """The values that a call can read, as they stand now.

    Args:
        roots, network: as of ``Places``.

    Attributes:
        places: where the values stand.
    """

    def __init__(self, roots: Mapping[str, Any], network: Iterable[nn.Module]) -> None:
        self.places = places = Places(roots, network)
        self._tensors = [tensor for _, tensor in places.tensors]
        self._sized = [space for _, space in places.sized]
        self._sizes = list(map(len, self._sized))
        self._values, self._shape = self._now(), self._form()

    def holds(self) -> bool:
        """Whether every value is what it was."""
        if list(map(len, self._sized)) != self._sizes or self._form() != self._shape:
            return False
        now = self._now()
        if not all(map(is_, now, self._values)):
            if not all(map(alike, now, self._values)):
                return False
            self._values = now
        return True

    def changed(self) -> list[str]:
        """The names of values that are others now, where values are."""
        places = self.places
        names = [*places.names, *places.class_names, *(name for name, _ in places.cells)]
        names += [place for place, _, _ in places.slots]
        pairs = zip(names, self._now(), self._values, strict=False)  # of lists the items follow
        found = [name for name, now, was in pairs if not alike(now, was)]
        spaces = zip(places.sized, self._sizes, strict=True)
        return found or [place for (place, space), size in spaces if len(space) != size]

    def _now(self) -> list[Any]:
        places = self.places
        values = list(map(dict.get, places.dicts, places.keys, repeat(GONE)))
        if places.in_classes:
            values += [space.get(name, GONE) for space, name in places.in_classes]
        if places.cells:
            values += [_contents(cell) for _, cell in places.cells]
        if places.slots:
            values += [getattr(thing, name, GONE) for _, thing, name in places.slots]
        for _, items in places.lists:
            values += items
        return values

    def _form(self) -> list[Any]:
        """How many there are of what, how tensors lie, what sets and arrays hold."""
        places, form = self.places, list[Any]()
        if any(places.hooks):
            form.append(list(map(len, places.hooks)))
        if self._tensors:
            form.append(list(map(_KIND, self._tensors)))
            form.append(list(map(Tensor.stride, self._tensors)))
            # A captured graph reads where a tensor lay.
            form.append([tensor.data_ptr() for tensor in self._tensors if tensor.is_cuda])
        if places.lists:
            form.append([len(items) for _, items in places.lists])
        if places.sets or places.arrays:
            form += [frozenset(items) for _, items in places.sets]
            form += [array.tobytes() for _, array in places.arrays]
        return form


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the name was deleted
        return GONE


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same for whatever reads them."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, float | complex):
        return repr(one) == repr(other)  # tells the zeros apart, and not one NaN from another
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return isinstance(one, bool | int | str | bytes | enum.Enum) and one == other
