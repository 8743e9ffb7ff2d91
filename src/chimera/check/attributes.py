"""What a module keeps in plain attributes, looked into as far as references lead."""

import copy
import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from chimera.paths.structure import own_attributes

T = TypeVar("T")

_HELD_AS: dict[type, str] = {
    list: "a list",
    tuple: "a tuple",
    dict: "a dict",
    set: "a set",
    frozenset: "a frozenset",
    deque: "a deque",
    functools.partial: "a functools.partial",
    FunctionType: "a function's closure",
    MethodType: "a bound method",
}

_LIBRARIES = sys.stdlib_module_names | {"torch", "chimera", "numpy"}


CONTAINERS = frozenset(_HELD_AS.values())
"""The words for what Python itself keeps things in."""

ITSELF = "the attribute itself"


def held(module: nn.Module, kind: type[T]) -> Iterator[tuple[str, str, list[T]]]:
    """The plain attributes of ``module`` in which instances of ``kind`` are kept.

    Yields the attribute's name, what it is in words (``"a list"``, or ``"the attribute itself"``),
    and the instances in it, each once.
    """
    for name, value in own_attributes(module).items():
        found: dict[int, T] = {}
        _search(value, kind, found, set())
        if found:
            yield name, _words(value), list(found.values())


def _words(value: Any) -> str:
    for kind, words in _HELD_AS.items():
        if isinstance(value, kind):
            return words
    if is_plain_object(value):
        return f"a {type(value).__name__}"
    return ITSELF


def _search(value: Any, kind: type[T], found: dict[int, T], seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, kind):
        found[id(value)] = value
    elif not isinstance(value, (nn.Module, Tensor)):
        for part in _parts(value):
            _search(part, kind, found, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, FunctionType):
        cells = [content for cell in value.__closure__ or () for content in _content(cell)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if is_plain_object(value):
        return list(vars(value).values())
    return []


def is_plain_object(value: Any) -> bool:
    """Whether ``value`` is an object of a class that a user wrote, and no module or tensor."""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, (type, nn.Module, Tensor, ModuleType, torch.optim.Optimizer))
        and (
            type(value).__module__.split(".")[0] not in _LIBRARIES
            or type(value).__module__ in ("__main__", "types")
        )
    )


def _content(cell: CellType) -> list[Any]:
    """What a closure's cell holds: nothing yet, or one thing."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


@contextmanager
def classes_restored(kinds: Iterable[type]) -> Iterator[None]:
    """Containers that are attributes of the classes hold afterwards what they held before."""
    kept: list[tuple[Any, Any]] = [
        (value, copy.copy(value))
        for kind in kinds
        for name, value in vars(kind).items()
        if isinstance(value, (list, dict, set, deque)) and not name.startswith("__")
    ]
    try:
        yield
    finally:
        for value, before in kept:
            value.clear()
            (value.update if isinstance(value, (dict, set)) else value.extend)(before)
