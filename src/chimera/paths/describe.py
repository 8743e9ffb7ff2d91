"""Stand-ins for values, by which the same attribute of two modules can be compared.

Two values whose stand-ins are the ``same`` do the same in two members, each with its own modules
and tensors. What nothing is known of is the same as itself alone, or as what it is equal to for
good: equality counts only where a hash says that it cannot change.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _WrappedHook

from chimera.paths.nest import LEAF, flatten

_VALUES = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice)
# As decorators they run a function in a fresh one of their kind, and are never changed themselves.
_GRAD_MODES = (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.set_grad_enabled)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Opaque:
    """A value of which nothing is known but its identity and what ``==`` says."""

    value: Any


def same(one: Any, other: Any) -> bool:
    """Whether two stand-ins are the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Opaque):
        return _same_object(one.value, other.value)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other or (one != one and other != other)
    return bool(one == other)


def _same_object(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other) or type(one).__hash__ is None:
        return False
    try:
        return (one == other) is True
    except Exception:  # noqa: BLE001 - a user's __eq__ may raise anything: then not known to be equal
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A tensor of the module's that a function's closure holds: the cell, and which leaf of it."""

    cell: types.CellType
    leaf: int
    slot: int


class Describer:
    """Makes stand-ins.

    Args:
        modules: the index of every known module, by id.
        slots: the index of every known tensor, by id.

    Attributes:
        held: the known tensors that closures hold, as far as stand-ins were made.
    """

    def __init__(self, modules: Mapping[int, int], slots: Mapping[int, int]) -> None:
        self._modules, self._slots = modules, slots
        self._active: dict[int, int] = {}
        self.held: list[Held] = []

    def __call__(self, value: Any) -> Any:
        """The stand-in of ``value``."""
        if isinstance(value, _VALUES):
            return value
        if isinstance(value, nn.Module):
            index = self._modules.get(id(value))
            return Opaque(value) if index is None else ("module", index)
        if isinstance(value, Tensor):
            index = self._slots.get(id(value))
            return Opaque(value) if index is None else ("tensor", index)
        if id(value) in self._active:
            return ("again", self._active[id(value)])
        self._active[id(value)] = len(self._active)
        try:
            return self._compound(value)
        finally:
            del self._active[id(value)]

    def _compound(self, value: Any) -> Any:
        if isinstance(value, weakref.ref):
            return ("weak", self(value()))
        if isinstance(value, types.MethodType):
            return ("method", self(value.__func__), self(value.__self__))
        if isinstance(value, functools.partial):
            return ("partial", self(value.func), self(value.args), self(value.keywords))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if type(value) in _GRAD_MODES:
            return ("mode", type(value).__name__, self(vars(value)))
        if isinstance(value, _WrappedHook):
            return ("hook", self(value.hook), value.with_module)
        leaves, shape = flatten(value, objects=True)
        if shape is LEAF:
            return Opaque(value)
        return ("nested", shape, *map(self, leaves))

    def _function(self, function: types.FunctionType) -> Any:
        return (
            "function",
            function.__code__,
            id(function.__globals__),
            self(function.__defaults__),
            self(function.__kwdefaults__),
            self(function.__dict__),
            *map(self._cell, function.__closure__ or ()),
        )

    def _cell(self, cell: types.CellType) -> Any:
        try:
            content = cell.cell_contents
        except ValueError:  # a name that the enclosing function has not bound yet
            return ("empty",)
        for leaf, part in enumerate(flatten(content, objects=True)[0]):
            if isinstance(part, Tensor) and id(part) in self._slots:
                self.held.append(Held(cell, leaf, self._slots[id(part)]))
        return self(content)
