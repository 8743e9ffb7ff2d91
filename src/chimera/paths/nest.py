"""Nested values: lists, tuples, dicts, deques, sets, dataclasses, with leaves of any type.

``flatten`` and ``Shape.rebuild`` are inverses. Two values nest alike when their shapes are equal.
With ``objects`` plain objects of users' classes nest, too, by what their ``__dict__`` holds.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

_DICTS: tuple[type, ...] = (dict, OrderedDict, Counter)
_SETS: tuple[type, ...] = (set, frozenset)
_PLAIN = frozenset((str, bytes, int, float, complex, bool, type(None)))
# What a class defines that keeps more than its ``__dict__`` holds, or hides it.
_OWN_WAYS = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__deepcopy__")


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """How a value nests: ``kind`` of container, its keys, its parts; ``None`` is a leaf.

    Attributes:
        kind: the container's class, ``None`` for a leaf.
        keys: the names of the parts (dict keys, field names), ``()`` where parts go by position;
            of a set, which has no parts, the elements.
        parts: the shapes of the parts, in order.
        extra: what else the container needs to be made again (a default factory, a greatest
            length, how an object keeps its parts).
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
        kind, keys, parts = self.kind, self.keys, [part._take(leaves) for part in self.parts]
        if kind is defaultdict:
            return defaultdict(self.extra, zip(keys, parts, strict=True))
        if kind in _DICTS:
            return kind(dict(zip(keys, parts, strict=True)))
        if kind in _SETS:
            return kind(keys)
        if kind is deque:
            return deque(parts, self.extra)
        if isinstance(self.extra, _Object):
            return self.extra.made(kind, dict(zip(keys, parts, strict=True)))
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)


@dataclasses.dataclass(frozen=True, slots=True)
class _Object:
    """How an object keeps its parts: in its ``__dict__``, or by fields, some also as items."""

    fields: bool
    items: tuple[str, ...] = ()

    def made(self, kind: Any, parts: dict[str, Any]) -> Any:
        value = kind.__new__(kind)
        if not self.fields:
            value.__dict__.update(parts)
            return value
        for name, part in parts.items():
            object.__setattr__(value, name, part)
        for name in self.items:
            OrderedDict.__setitem__(value, name, parts[name])
        return value


LEAF = Shape(None)


def _parts(value: Any, objects: bool) -> tuple[tuple[Any, ...], Sequence[Any], Any] | None:
    kind = type(value)
    if kind in _DICTS:
        return tuple(value), list(value.values()), None
    if kind is defaultdict:
        return tuple(value), list(value.values()), value.default_factory
    if kind in (list, tuple) or (isinstance(value, tuple) and _is_plain_tuple(kind)):
        return (), value, None
    if kind is deque:
        return (), list(value), value.maxlen
    if kind in _SETS and all(type(part) in _PLAIN for part in value):
        return tuple(sorted(value, key=repr)), (), None
    found = None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = _fields(value)
    if found is None and objects and _is_plain_object(value):
        found = tuple(_own(value)), list(_own(value).values()), _Object(fields=False)
    return found


def _fields(value: Any) -> tuple[tuple[Any, ...], Sequence[Any], Any] | None:
    """The parts of a dataclass, one that is an ``OrderedDict`` of its fields, too."""
    names = tuple(field.name for field in dataclasses.fields(value))
    if not all(hasattr(value, name) for name in names) or not set(_own(value)) <= set(names):
        return None
    parts = [getattr(value, name) for name in names]
    if isinstance(value, OrderedDict):
        if not all(key in names and item is getattr(value, key) for key, item in value.items()):
            return None
        return names, parts, _Object(fields=True, items=tuple(value))
    return (names, parts, _Object(fields=True)) if _is_made_plainly(type(value)) else None


def _own(value: Any) -> Any:
    return getattr(value, "__dict__", {})


def _is_plain_tuple(kind: type) -> bool:
    """Whether ``kind`` is made from its parts: a named tuple, or one of torch's return types."""
    return hasattr(kind, "_fields") or kind.__module__ == "torch.return_types"


def _is_made_plainly(kind: Any) -> bool:
    return kind.__new__ is object.__new__


def _is_plain_object(value: Any) -> bool:
    """Whether all that ``value`` holds stands in its ``__dict__``."""
    kind = type(value)
    if kind is SimpleNamespace:
        return True
    if isinstance(value, (type, Tensor, nn.Module, enum.Enum)) or not hasattr(value, "__dict__"):
        return False
    return _is_made_plainly(kind) and not any(
        base.__dict__.get("__slots__") or any(way in base.__dict__ for way in _OWN_WAYS)
        for base in kind.__mro__[:-1]
    )


def is_plain(value: Any) -> bool:
    """Whether ``value`` is a number, a text or None."""
    return type(value) in _PLAIN


def parts_of(value: Any) -> Sequence[Any] | None:
    """What a container or a plain object holds, in order; None where ``value`` is neither."""
    found = _parts(value, objects=True)
    return None if found is None else found[1]


def with_part(value: Any, place: int, part: Any) -> Any:
    """``value`` with another part at a place: itself, changed; of a tuple a new one."""
    found = _parts(value, objects=True)
    assert found is not None
    keys, parts, extra = found
    if isinstance(extra, _Object):
        object.__setattr__(value, keys[place], part)
        if keys[place] in extra.items:
            OrderedDict.__setitem__(value, keys[place], part)
    elif not isinstance(value, tuple):
        value[keys[place] if keys else place] = part
    else:
        new = [part if i == place else old for i, old in enumerate(parts)]
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    return value


def flatten(value: Any, *, objects: bool = False) -> tuple[list[Any], Shape]:
    """The leaves of ``value`` in order, and how they nest.

    Args:
        value: anything; what contains itself is a leaf there.
        objects: whether plain objects of users' classes nest, too.
    """
    leaves: list[Any] = []
    # Dynamo traces no value that contains itself, and in torch 2.11 no id() of a tuple.
    above = None if torch.compiler.is_dynamo_compiling() else ()
    return leaves, _flatten(value, leaves, objects, above)


def _flatten(value: Any, leaves: list[Any], objects: bool, above: tuple[int, ...] | None) -> Shape:
    if type(value) in _PLAIN or isinstance(value, Tensor):
        leaves.append(value)
        return LEAF
    found = None if above is not None and id(value) in above else _parts(value, objects)
    if found is None:
        leaves.append(value)
        return LEAF
    keys, parts, extra = found
    above = None if above is None else (*above, id(value))
    inner = tuple(_flatten(part, leaves, objects, above) for part in parts)
    return Shape(type(value), keys, inner, extra)


def tensors_in(value: Any, *, objects: bool = False) -> list[Tensor]:
    """The tensors among the leaves of ``value``, in order: ``flatten`` without how they nest."""
    found: list[Tensor] = []
    _collect(value, found, objects, ())
    return found


def _collect(value: Any, found: list[Tensor], objects: bool, above: tuple[int, ...]) -> None:
    kind = type(value)
    if kind in _PLAIN:
        return
    if isinstance(value, Tensor):
        found.append(value)
        return
    if id(value) in above:
        return
    if kind is tuple or kind is list:
        parts = value
    elif kind is dict:
        parts = value.values()
    else:
        nested = _parts(value, objects)
        if nested is None:
            return
        parts = nested[1]
    above = (*above, id(value))
    for part in parts:
        _collect(part, found, objects, above)


def leaf_names(shape: Shape, name: str) -> list[str]:
    """The names of a shape's leaves below ``name``: ``layers[0]``, ``table['a']``, ``out.mean``."""
    if shape.kind is None:
        return [name]
    if not shape.parts:
        return []
    keys = shape.keys or range(len(shape.parts))
    field = isinstance(shape.extra, _Object)
    names: list[str] = []
    for key, part in zip(keys, shape.parts, strict=True):
        names += leaf_names(part, f"{name}.{key}" if field else f"{name}[{key!r}]")
    return names


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``function`` applied to every leaf."""
    leaves, shape = flatten(value)
    return shape.rebuild([function(leaf) for leaf in leaves])
