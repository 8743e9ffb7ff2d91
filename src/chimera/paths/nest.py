"""Nested values: lists, tuples, named tuples, dicts and dataclasses, with leaves of any type.

``flatten`` and ``Shape.rebuild`` are inverses. Two values nest alike when their shapes are equal.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

_DICTS: tuple[type, ...] = (dict, OrderedDict)


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """How a value nests: ``kind`` of container, its keys, its parts; ``None`` is a leaf.

    Attributes:
        kind: the container's class, ``None`` for a leaf.
        keys: the names of the parts (dict keys, field names), ``()`` where parts go by position.
        parts: the shapes of the parts, in order.
        extra: what else the container needs to be made again (a default factory).
    """

    kind: type | None
    keys: tuple[Any, ...] = ()
    parts: tuple[Shape, ...] = ()
    extra: Any = None

    @property
    def size(self) -> int:
        """The number of leaves."""
        return 1 if self.kind is None else sum(part.size for part in self.parts)

    def rebuild(self, leaves: Sequence[Any]) -> Any:
        """The nested value that holds ``leaves``, one for each leaf of the shape."""
        assert len(leaves) == self.size, f"{self.size} leaves expected, got {len(leaves)}"
        return self._take(iter(leaves))

    def _take(self, leaves: Any) -> Any:
        if self.kind is None:
            return next(leaves)
        parts = [part._take(leaves) for part in self.parts]
        if self.kind is defaultdict:
            return defaultdict(self.extra, zip(self.keys, parts, strict=True))
        if self.kind in _DICTS:
            return self.kind(zip(self.keys, parts, strict=True))
        if dataclasses.is_dataclass(self.kind):
            value = object.__new__(self.kind)
            for name, part in zip(self.keys, parts, strict=True):
                object.__setattr__(value, name, part)
            return value
        if hasattr(self.kind, "_fields"):
            return self.kind(*parts)
        return self.kind(parts)


LEAF = Shape(None)


def _parts(value: Any) -> tuple[tuple[Any, ...], Sequence[Any], Any] | None:
    kind = type(value)
    if kind in _DICTS:
        return tuple(value), list(value.values()), None
    if kind is defaultdict:
        return tuple(value), list(value.values()), value.default_factory
    if kind in (list, tuple) or (isinstance(value, tuple) and _is_plain_tuple(kind)):
        return (), value, None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(field.name for field in dataclasses.fields(value))
        if all(hasattr(value, name) for name in names) and set(_own(value)) <= set(names):
            return names, [getattr(value, name) for name in names], None
    return None


def _own(value: Any) -> Any:
    return getattr(value, "__dict__", {})


def _is_plain_tuple(kind: type) -> bool:
    """Whether ``kind`` is made from its parts: a named tuple, or one of torch's return types."""
    return hasattr(kind, "_fields") or kind.__module__ == "torch.return_types"


def flatten(value: Any) -> tuple[list[Any], Shape]:
    """The leaves of ``value`` in order, and how they nest."""
    leaves: list[Any] = []
    return leaves, _flatten(value, leaves)


def _flatten(value: Any, leaves: list[Any]) -> Shape:
    found = _parts(value)
    if found is None:
        leaves.append(value)
        return LEAF
    keys, parts, extra = found
    return Shape(type(value), keys, tuple(_flatten(part, leaves) for part in parts), extra)


def leaf_names(shape: Shape, name: str) -> list[str]:
    """The names of a shape's leaves below ``name``: ``layers[0]``, ``table['a']``, ``out.mean``."""
    if shape.kind is None:
        return [name]
    keys = shape.keys or range(len(shape.parts))
    field = dataclasses.is_dataclass(shape.kind)
    names: list[str] = []
    for key, part in zip(keys, shape.parts, strict=True):
        names += leaf_names(part, f"{name}.{key}" if field else f"{name}[{key!r}]")
    return names


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``function`` applied to every leaf."""
    leaves, shape = flatten(value)
    return shape.rebuild([function(leaf) for leaf in leaves])
