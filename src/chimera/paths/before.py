"""A module as it was before a call, and whether it still is.

Most calls change nothing, so that is asked first, by identity: the same objects under the same
names in the same order. Only what may change inside itself, a list or an object, is looked into.
"""

from __future__ import annotations

import operator
import weakref
from typing import Any

from torch import Tensor, nn

from chimera.paths.nest import LEAF, Shape, flatten
from chimera.paths.structure import is_internal, own_attributes

_PLAIN = (str, bytes, int, float, complex, bool, type(None))


class Remade(TypeError):
    """A call registered or removed what no exchange of tensors can follow."""


def flat(value: Any) -> tuple[list[Any], Shape]:
    return flatten(value, objects=True)


def watched(module: nn.Module) -> dict[str, Any]:
    """What of a module's ``__dict__`` a call may change: its attributes and its mode."""
    return {**own_attributes(module), "training": module.training}


def _is_fixed(value: Any) -> bool:
    """Whether nothing inside ``value`` can change, as of numbers and tuples of them."""
    kind = type(value)
    return kind in _PLAIN or (kind is tuple and all(map(_is_fixed, value)))


class Before:
    """The ``__dict__`` of a module, as it was."""

    __slots__ = ("_dict", "nested")

    def __init__(self, module: nn.Module) -> None:
        self._dict = dict(module.__dict__)
        self.nested = {
            name: (value, *flat(value))
            for name, value in own_attributes(module).items()
            if not _is_fixed(value)
        }

    def attributes(self) -> dict[str, tuple[Any, list[Any], Shape]]:
        """What ``watched`` gave, each with its leaves and their shape."""
        watched = [name for name in self._dict if name == "training" or not is_internal(name)]
        return {name: self.nested.get(name) or self._alone(name) for name in watched}

    def _alone(self, name: str) -> tuple[Any, list[Any], Shape]:
        value = self._dict[name]
        return (value, *flat(value))

    def holds(self, module: nn.Module, besides: str | None = None) -> bool:
        """Whether the module surely is as it was, but for an attribute ``besides``, put last."""
        now, before = module.__dict__, self._dict
        if besides is not None:
            now = {name: value for name, value in now.items() if name != besides}
        return _is_as(now, before) and not any(
            changed(known, now[name]) for name, known in self.nested.items()
        )


def _is_as(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether the same names hold the same objects in the same order."""
    return (
        len(now) == len(before)
        and list(now) == list(before)
        and all(map(operator.is_, now.values(), before.values()))
    )


class Registered:
    """The parameters, buffers and modules that a module has registered, as they were."""

    __slots__ = ("_before", "_now", "_passed", "_passing")

    def __init__(self, module: nn.Module) -> None:
        self._now: tuple[dict[str, Any], ...] = (
            module._parameters,
            module._buffers,
            module._modules,
        )
        self._before = tuple([registry.copy() for registry in self._now])
        self._passing = module._non_persistent_buffers_set
        self._passed = self._passing.copy()

    def new_buffers(self, path: str) -> dict[str, Tensor | None]:
        """Buffers that stand where none stood, and ``None`` where a buffer stood."""
        if all(map(_is_as, self._now, self._before)):
            return {}
        for kind, now, before in zip(_KINDS, self._now, self._before, strict=True):
            for name in now.keys() ^ before.keys():
                if kind != "buffer" or name in before:
                    how = "removes" if name in before else "registers"
                    raise Remade(_remade(path, f"{how} the {kind} {name!r}"))
            for name, value in now.items():
                known = before.get(name)
                exchanged = kind == "parameter" and value is not None and known is not None
                if kind != "buffer" and not exchanged and value is not known:
                    raise Remade(_remade(path, f"puts another {kind} in the place of {name!r}"))
        now, before = self._now[1], self._before[1]
        return {
            name: value
            for name, value in now.items()
            if (name not in before or (before[name] is None) != (value is None))
        }

    def restore(self) -> None:
        """Register again what was registered."""
        for now, before in zip(self._now, self._before, strict=True):
            if not _is_as(now, before):
                now.clear()
                now.update(before)
        if self._passing != self._passed:
            self._passing.clear()
            self._passing.update(self._passed)


_KINDS = ("parameter", "buffer", "module")


def _remade(path: str, what: str) -> str:
    where = path or "the module itself"
    return f"{where}: forward {what}; call the module once, or build it, before it is stacked"


def changed(before: tuple[Any, list[Any], Shape], value: Any) -> bool:
    old, leaves, shape = before
    if shape is LEAF:
        return value is not old
    now, now_shape = flat(value)
    return now_shape != shape or not all(map(_is_same, leaves, now))


def _is_same(a: Any, b: Any) -> bool:
    """Weak references hold nothing, so one is as good as another."""
    return a is b or (isinstance(a, weakref.ref) and isinstance(b, weakref.ref))
