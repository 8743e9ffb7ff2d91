"""Functions and weak references of a copied module, bound to the copy.

``copy.deepcopy`` hands functions and weak references on as they are, so that a hook or a function
kept in an attribute that uses the module by its closure would go on using the original.
``reached`` tells which modules such a function uses.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.module import _WrappedHook

from chimera.paths.nest import flatten
from chimera.paths.structure import HOOKS, own_attributes


def bind(modules: Sequence[nn.Module], copies: Mapping[int, Any]) -> None:
    """Let functions and weak references in ``modules`` reach the copies of what they reach.

    Args:
        modules: the modules of the copy.
        copies: by the id of an original module or tensor its copy.
    """
    binder = _Binder(copies)
    for module in modules:
        for name, value in own_attributes(module).items():
            module.__dict__[name] = binder.nested(value)
        for kind in HOOKS:
            hooks = getattr(module, kind)
            for number, hook in hooks.items():
                hooks[number] = binder.bound(hook)


class _Binder:
    def __init__(self, copies: Mapping[int, Any]) -> None:
        self._copies = copies
        self._functions: dict[int, types.FunctionType] = {}

    def nested(self, value: Any) -> Any:
        """``value`` with every leaf bound; itself where none changes."""
        leaves, shape = flatten(value, objects=True)
        bound = [self.bound(leaf) for leaf in leaves]
        if all(new is old for new, old in zip(bound, leaves, strict=True)):
            return value
        return shape.rebuild(bound)

    def bound(self, value: Any) -> Any:
        if id(value) in self._copies:
            return self._copies[id(value)]
        if type(value) is weakref.ref:
            target = value()
            return weakref.ref(self._copies[id(target)]) if id(target) in self._copies else value
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            owner = self.bound(value.__self__)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if isinstance(value, functools.partial):
            parts = [value.func, value.args, value.keywords]
            bound = [self.bound(value.func), *map(self.nested, parts[1:])]
            if all(new is old for new, old in zip(bound, parts, strict=True)):
                return value
            return functools.partial(bound[0], *bound[1], **bound[2])
        if isinstance(value, _WrappedHook):
            value.hook = self.bound(value.hook)
        return value

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        known = self._functions.get(id(function))
        if known is not None:
            return known
        if not self._reaches(function, set()):
            return function
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        new = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, closure=cells
        )
        self._functions[id(function)] = new  # before its cells: it may hold itself
        new.__defaults__ = self.nested(function.__defaults__)
        new.__kwdefaults__ = self.nested(function.__kwdefaults__)
        new.__dict__.update(function.__dict__)
        new.__qualname__ = function.__qualname__
        for cell, old in zip(cells, function.__closure__ or (), strict=True):
            if _is_bound(old):
                cell.cell_contents = self.nested(old.cell_contents)
        return new

    def _reaches(self, value: Any, seen: set[int]) -> bool:
        """Whether binding would change ``value``."""
        if id(value) in self._copies:
            return True
        if id(value) in seen:
            return False
        seen.add(id(value))
        return any(self._reaches(part, seen) for part in _parts(value))


# Of these torch 2.11 cannot trace id(); a circle goes through something else, too.
_NEVER_A_CIRCLE = (type(None), tuple, dict)


def reached(value: Any) -> list[nn.Module]:
    """The modules that a function uses by its closure, with all of theirs, in order."""
    found: dict[nn.Module, None] = {}
    seen: set[int] = set()
    todo = [value]
    while todo:
        part = todo.pop()
        if type(part) not in _NEVER_A_CIRCLE:
            if id(part) in seen:
                continue
            seen.add(id(part))
        if isinstance(part, nn.Module):
            found.update(dict.fromkeys(part.modules()))
        else:
            todo += _parts(part)
    return list(found)


def _parts(value: Any) -> list[Any]:
    """What a function, or a value that is no function, holds."""
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_bound(cell)]
        return [*cells, value.__defaults__, value.__kwdefaults__]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if type(value) is weakref.ref:
        return [value()]
    leaves, _ = flatten(value, objects=True)
    return [leaf for leaf in leaves if leaf is not value]


def _is_bound(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - asked for its error alone
    except ValueError:
        return False
    return True
