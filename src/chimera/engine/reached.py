"""What a call can read of Python: values in attributes, globals, closures, containers.

``Reached`` walks from a network and a loss along their code, and notes where each value that it can
read stands. Contract: ``holds`` says whether all of them are what they were, in microseconds; what
cannot be looked at without being moved, as an iterator, is in ``unfollowed``. Not followed: what
packages hold in globals of their own, and what extension types keep to themselves.
"""

from __future__ import annotations

import argparse
import enum
import functools
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from operator import attrgetter, is_
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from chimera.engine.reads import is_installed, reads_of
from chimera.paths.hooks import hook_tables
from chimera.paths.structure import is_internal
from chimera.paths.walk import join, registered

GONE = object()
"""Stands for a value that is not there."""

# More values than this in one container are not looked at before every step.
MOST_VALUES = 4096
MOST_BYTES = 4096
# torch's RNNs list their parameters there, again after a change.
DERIVED = frozenset({"_flat_weights", "_flat_weight_refs"})

_PLAIN = (bool, int, float, complex, str, bytes, type(None), enum.Enum, slice, range, torch.dtype)
_OPAQUE = (torch.Generator, random.Random, bytearray, memoryview)
_DATA = (SimpleNamespace, argparse.Namespace)
_KIND = attrgetter("requires_grad", "dtype", "device", "shape", "layout")


class Reached:
    """The values that a call can read, as they stand now.

    Args:
        roots: what the call begins with, by names for people: modules, functions.
        network: modules whose own parameters, buffers and modes are looked at elsewhere.

    Attributes:
        unfollowed: what cannot be followed, and why.
        spaces: dictionaries of attributes and contents, whole, by name.
        classes: of the user's.
        dicts, keys, places: which values of dictionaries are read, and what they are called.
        cells, lists, sets, arrays, slots: other places of values.
        tensors: outside of the network.
    """

    def __init__(self, roots: Mapping[str, Any], network: Iterable[nn.Module]) -> None:
        self.unfollowed: list[str] = []
        self.spaces: list[tuple[str, dict[Any, Any]]] = []
        self.classes: list[type] = []
        self.cells: list[tuple[str, CellType]] = []
        self.lists: list[tuple[str, Any]] = []
        self.sets: list[tuple[str, set[Any]]] = []
        self.arrays: list[tuple[str, Any]] = []
        self.slots: list[tuple[str, Any, str]] = []
        self.dicts: list[dict[Any, Any]] = []
        self.keys: list[Any] = []
        self._network = {id(module) for module in network}
        self._names, self._every = {"forward"}, False
        self._seen: dict[Any, Any] = {}
        self.places: list[str] = []
        self._objects: list[tuple[str, dict[str, Any], bool]] = []
        self._in_classes: list[tuple[Mapping[str, Any], str]] = []
        self._class_names: list[str] = []
        self._sized: list[Any] = []
        self._sized_names: list[str] = []
        self._bases: set[type] = {object, nn.Module}
        self._hooks: list[Any] = []
        self.tensors: list[tuple[str, Tensor]] = []
        self._own: set[int] = set()
        for module in network:
            self._own.update(map(id, module.parameters(recurse=False)))
            self._own.update(map(id, module.buffers(recurse=False)))
        for name, root in roots.items():
            self._visit(root, name)
        self._close()
        self._loose = [tensor for _, tensor in self.tensors]
        self._sizes = list(map(len, self._sized))
        self._values, self._shape = self._now(), self._form()

    # Looking again.

    def holds(self) -> bool:
        """Whether every value is what it was."""
        now = self._now()
        if not all(map(is_, now, self._values)):
            if not all(map(alike, now, self._values)):
                return False
            self._values = now
        return list(map(len, self._sized)) == self._sizes and self._form() == self._shape

    def changed(self) -> list[str]:
        """The names of values that are others now, where values are."""
        names = [*self.places, *self._class_names]
        names += [*(name for name, _ in self.cells), *(place for place, _, _ in self.slots)]
        pairs = zip(names, self._now(), self._values, strict=False)  # of lists the items follow
        found = [name for name, now, was in pairs if not alike(now, was)]
        spaces = zip(self._sized_names, self._sized, self._sizes, strict=True)
        return found or [place for place, space, size in spaces if len(space) != size]

    def _now(self) -> list[Any]:
        values = list(map(dict.get, self.dicts, self.keys, repeat(GONE)))
        if self._in_classes:
            values += [space.get(name, GONE) for space, name in self._in_classes]
        if self.cells:
            values += [cell.cell_contents for _, cell in self.cells]
        if self.slots:
            values += [getattr(thing, name, GONE) for _, thing, name in self.slots]
        for _, items in self.lists:
            values += items
        return values

    def _form(self) -> list[Any]:
        """How many there are of what, how tensors lie, what sets and arrays hold."""
        form: list[Any] = [any(self._hooks) and list(map(len, self._hooks))]
        if self._loose:
            form.append(list(map(_KIND, self._loose)))
            form.append(list(map(Tensor.stride, self._loose)))
        if self.lists:
            form.append([len(items) for _, items in self.lists])
        if self.sets or self.arrays:
            form += [frozenset(items) for _, items in self.sets]
            form += [array.tobytes() for _, array in self.arrays]
        return form

    # Walking.

    def _close(self) -> None:
        """Follow attributes whose names are read, until no more come."""
        size = None
        while size != (size := (len(self._names), len(self._seen), len(self.keys), self._every)):
            for place, space, sized in list(self._objects):
                every = self._every and sized
                for name in list(space) if every else self._names & space.keys():
                    if not is_internal(name) and name not in DERIVED:
                        self._entry(space, name, f"{place}.{name}")
            for base in list(self.classes):
                own = vars(base)
                theirs = is_installed(base)
                for name in list(own):
                    special = name.startswith("__") and isinstance(own[name], FunctionType)
                    if name not in self._names and (theirs or not special):
                        continue
                    place = f"{base.__name__}.{name}"
                    if not theirs and (id(base), name) not in self._seen:
                        self._seen[id(base), name] = base
                        self._in_classes.append((own, name))
                        self._class_names.append(place)
                    if not theirs or isinstance(own[name], FunctionType | property):
                        self._visit(own[name], place)

    def _entry(self, space: dict[Any, Any], key: Any, place: str) -> None:
        if (id(space), key) in self._seen:
            return
        self._seen[id(space), key] = space
        self.dicts.append(space)
        self.keys.append(key)
        self.places.append(place)
        self._visit(space.get(key, GONE), place)

    def _visit(self, value: Any, place: str) -> None:
        if isinstance(value, _PLAIN) or value is GONE or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        numpy: Any = sys.modules.get("numpy")
        if isinstance(value, Tensor):
            if id(value) not in self._own:
                self._tensor(value, place)
        elif isinstance(value, nn.Module):
            self._module(value, place)
        elif isinstance(value, FunctionType):
            self._function(value, place)
        elif isinstance(value, MethodType):
            self._visit(value.__self__, place)
            self._visit(value.__func__, place)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._visit(part, place)
        elif isinstance(value, property):
            self._visit(value.fget, place)
        elif isinstance(value, classmethod | staticmethod):
            self._visit(value.__func__, place)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, ModuleType):
            if not is_installed(value):
                self._objects.append((place, vars(value), False))
        elif isinstance(value, tuple | frozenset):
            for item in value:
                self._visit(item, place)
        elif isinstance(value, dict | list | deque | set):
            self._container(value, place)
        elif isinstance(value, _OPAQUE) or (
            isinstance(value, Iterator) and is_installed(type(value))
        ):
            self.unfollowed.append(f"{place} is a {type(value).__name__}")
        elif numpy is not None and isinstance(value, numpy.ndarray):
            if value.nbytes > MOST_BYTES or value.dtype.hasobject:
                self.unfollowed.append(f"{place} is an array of {value.size} values")
            else:
                self.arrays.append((place, value))
        elif numpy is not None and isinstance(
            value, numpy.random.Generator | numpy.random.RandomState
        ):
            self.unfollowed.append(f"{place} is a {type(value).__name__}")
        else:
            self._object(value, place)

    def _tensor(self, tensor: Tensor, place: str) -> None:
        if tensor.layout is not torch.strided or nn.parameter.is_lazy(tensor):
            self.unfollowed.append(f"{place} is no strided tensor")
        else:
            self.tensors.append((place, tensor))

    def _module(self, module: nn.Module, place: str) -> None:
        space = module.__dict__
        self._space(place, space)
        self._objects.append((place, space, True))
        self._hooks += hook_tables(module)
        children, *tensors = registered(module)
        self._space(place, children)
        known = id(module) in self._network
        for held in tensors:
            self._space(place, held, sized=not known)
        if not known:
            self._entry(space, "training", f"{place}.training")
            for held in tensors:
                for name in held:
                    self._entry(held, name, join(place, name))
        for name in children:
            self._entry(children, name, join(place, name))
        self._class(type(module))

    def _function(self, function: FunctionType, place: str) -> None:
        reads = reads_of(function.__code__)
        self._names |= reads.attributes
        if not is_installed(function):
            self._every |= reads.dynamic
            for name in reads.globals:
                self._entry(function.__globals__, name, name)
            for name in reads.imports:
                self._visit(sys.modules.get(name), name)
            self._space(place, function.__dict__)
            self._objects.append((place, function.__dict__, True))
        names = function.__code__.co_freevars
        for name, cell in zip(names, function.__closure__ or (), strict=True):
            try:
                contents = cell.cell_contents
            except ValueError:  # a name that has no value yet
                continue
            if id(cell) not in self._seen:
                self._seen[id(cell)] = cell
                self.cells.append((name, cell))
                self._visit(contents, name)
        self._visit(function.__defaults__, place)
        self._visit(function.__kwdefaults__, place)
        self._visit(getattr(function, "__wrapped__", None), place)

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if base not in self._bases:
                self._bases.add(base)
                self.classes.append(base)

    def _container(self, value: Any, place: str) -> None:
        if len(value) > MOST_VALUES:
            self.unfollowed.append(f"{place} holds {len(value)} values")
            return
        if isinstance(value, dict):
            self._space(place, value)
            for key in list(value):
                self._entry(value, key, f"{place}[{key!r:.40}]")
        else:
            (self.sets if isinstance(value, set) else self.lists).append((place, value))
            for item in value:
                self._visit(item, place)
        if not is_installed(type(value)):
            self._object(value, place)

    def _object(self, value: Any, place: str) -> None:
        space = getattr(value, "__dict__", None)
        if isinstance(space, dict):
            if isinstance(value, _DATA) or not is_installed(type(value)):
                self._space(place, space)
            self._objects.append((place, space, True))
        for base in type(value).__mro__:
            names = vars(base).get("__slots__", ())
            for name in [names] if isinstance(names, str) else names:
                if name not in ("__dict__", "__weakref__") and not is_installed(base):
                    self.slots.append((f"{place}.{name}", value, name))
                    self._visit(getattr(value, name, GONE), f"{place}.{name}")
        self._class(type(value))
        for name in ("__wrapped__", "__self__"):  # of a cached function, of a builtin method
            self._visit(getattr(value, name, None), place)

    def _space(self, place: str, space: dict[Any, Any], *, sized: bool = True) -> None:
        self.spaces.append((place, space))
        if sized:
            self._sized.append(space)
            self._sized_names.append(place)


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
