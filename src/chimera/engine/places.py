"""Where the values stand that a call can read: attributes, globals, closures, containers.

``Places`` walks from a network and a loss along their code. Contract: a value that the code names,
or that such a value holds, has its place here; what cannot be looked at without being moved, as an
iterator, is in ``unfollowed``. Not followed: what packages hold in globals of their own, and what
extension types keep to themselves.
"""

from __future__ import annotations

import argparse
import enum
import functools
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import torch
from torch import Tensor, nn

from chimera.engine.reads import is_installed, reads_of
from chimera.paths.hooks import hook_tables
from chimera.paths.structure import DERIVED, is_internal
from chimera.paths.walk import join, registered

GONE = object()
"""Stands for a value that is not there."""

# More values than this in one container are not looked at before every step.
MOST_VALUES = 4096
MOST_BYTES = 4096
PLAIN: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), enum.Enum, slice, range),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
"""Values that cannot change themselves."""

# What torch calls of modules and of autograd's functions.
_CALLED = ("forward", "backward", "setup_context", "vmap", "jvp")
_OPAQUE = (torch.Generator, random.Random, bytearray, memoryview)
_DATA = (SimpleNamespace, argparse.Namespace)


class Places:
    """The places of the values that a call can read.

    Args:
        roots: what the call begins with, by names for people: modules, functions.
        network: modules whose own parameters, buffers and modes are looked at elsewhere.

    Attributes:
        dicts, keys, names: which values of dictionaries are read, and what they are called.
        in_classes, class_names: the same of the user's classes.
        cells, slots, lists, sets, arrays: other places, by name.
        tensors: outside of the network, by name.
        hooks: the tables of hooks of the modules.
        spaces: dictionaries of attributes and contents, whole, by name.
        sized: those whose size says whether something was added.
        classes: of which attributes are read.
        unfollowed: what cannot be followed, and why.
    """

    def __init__(self, roots: Mapping[str, Any], network: Iterable[nn.Module]) -> None:
        self.dicts: list[dict[Any, Any]] = []
        self.keys: list[Any] = []
        self.names: list[str] = []
        self.in_classes: list[tuple[Mapping[str, Any], str]] = []
        self.class_names: list[str] = []
        self.cells: list[tuple[str, CellType]] = []
        self.slots: list[tuple[str, Any, str]] = []
        self.lists: list[tuple[str, Any]] = []
        self.sets: list[tuple[str, set[Any]]] = []
        self.arrays: list[tuple[str, Any]] = []
        self.tensors: list[tuple[str, Tensor]] = []
        self.hooks: list[dict[int, Any]] = []
        self.spaces: list[tuple[str, dict[Any, Any]]] = []
        self.sized: list[tuple[str, dict[Any, Any]]] = []
        self.classes: list[type] = []
        self.unfollowed: list[str] = []
        self._read, self._every = set(_CALLED), False
        self._seen: dict[Any, Any] = {}  # by id; kept alive, so that ids stay theirs
        self._bases: set[type] = {object, nn.Module}
        self._objects: list[tuple[str, dict[str, Any], bool]] = []
        self._network = {id(module) for module in network}
        self._own: set[int] = set()
        for module in network:
            self._own.update(map(id, module.parameters(recurse=False)))
            self._own.update(map(id, module.buffers(recurse=False)))
        for name, root in roots.items():
            self._visit(root, name)
        self._close()

    def _close(self) -> None:
        """Follow attributes whose names are read, until no more come."""
        size = None
        while size != (size := (len(self._read), len(self._seen), len(self.keys), self._every)):
            for place, space, sized in list(self._objects):
                every = self._every and sized
                for name in list(space) if every else self._read & space.keys():
                    if not is_internal(name) and name not in DERIVED:
                        self._entry(space, name, f"{place}.{name}")
            for base in list(self.classes):
                own = vars(base)
                theirs = is_installed(base)
                for name in list(own):
                    special = name.startswith("__") and isinstance(own[name], FunctionType)
                    if name not in self._read and (theirs or not special):
                        continue
                    place = f"{base.__name__}.{name}"
                    if not theirs and (id(base), name) not in self._seen:
                        self._seen[id(base), name] = base
                        self.in_classes.append((own, name))
                        self.class_names.append(place)
                    if not theirs or isinstance(own[name], FunctionType | property):
                        self._visit(own[name], place)

    def _entry(self, space: dict[Any, Any], key: Any, place: str) -> None:
        if (id(space), key) in self._seen:
            return
        self._seen[id(space), key] = space
        self.dicts.append(space)
        self.keys.append(key)
        self.names.append(place)
        self._visit(space.get(key, GONE), place)

    def _visit(self, value: Any, place: str) -> None:
        if isinstance(value, PLAIN) or value is GONE or id(value) in self._seen:
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
        if tensor.is_meta:  # of a stack's template: the members' tensor is the stack's own
            return
        if tensor.layout is not torch.strided or nn.parameter.is_lazy(tensor):
            self.unfollowed.append(f"{place} is no strided tensor")
        else:
            self.tensors.append((place, tensor))

    def _module(self, module: nn.Module, place: str) -> None:
        space = module.__dict__
        self._space(place, space)
        self._objects.append((place, space, True))
        self.hooks += hook_tables(module)
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
        self._read |= reads.attributes
        if not is_installed(function):
            self._every |= reads.dynamic
            for name in reads.globals | reads.writes:
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
            self._visit(space.get("__wrapped__"), place)
        for base in type(value).__mro__:
            names = vars(base).get("__slots__", ())
            for name in [names] if isinstance(names, str) else names:
                if name not in ("__dict__", "__weakref__") and not is_installed(base):
                    if name.startswith("__"):
                        name = f"_{base.__name__.lstrip('_')}{name}"
                    self.slots.append((f"{place}.{name}", value, name))
                    self._visit(getattr(value, name, GONE), f"{place}.{name}")
        if isinstance(value, BuiltinMethodType | MethodWrapperType):
            self._visit(value.__self__, place)
        self._class(type(value))

    def _space(self, place: str, space: dict[Any, Any], *, sized: bool = True) -> None:
        self.spaces.append((place, space))
        if sized:
            self.sized.append((place, space))
