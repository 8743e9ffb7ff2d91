"""What functions and classes read besides their source: closures, defaults, globals, attributes.

Of globals those count that say themselves what they are: numbers, texts, tensors, functions and
classes of the same package. A table that a program changes as it goes is not part of what a run was
told, nor is what a rank alone knows (its number, its device).
"""

from __future__ import annotations

import builtins
import functools
import inspect
import linecache
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from chimera.engine.reads import reads_of

_CLASS_CELL = "__class__"
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DEVICES = ("cpu", "cuda", "mps", "xpu")


def read_by(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function reads: names and values, in order."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if name == _CLASS_CELL:
            continue
        try:
            value = cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
        if not _is_of_rank(name, value):
            yield name, value
    names = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    yield from zip(names[len(names) - len(defaults) :], defaults, strict=True)
    yield from sorted((function.__kwdefaults__ or {}).items())
    for name in sorted(reads_of(code).globals):
        value = function.__globals__.get(name, builtins)
        known = value is not builtins and not _is_of_rank(name, value)
        if known and _counts(value, function):
            yield name, value


def methods_of(kind: type) -> Iterator[FunctionType]:
    """The functions that a class itself defines."""
    for member in vars(kind).values():
        inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        inner = inspect.unwrap(inner) if callable(inner) else inner
        if isinstance(inner, FunctionType):
            yield inner


def attributes_of(kind: type) -> Iterator[tuple[str, Any]]:
    """The plain values that a class itself defines."""
    for name, value in sorted(vars(kind).items()):
        plain = isinstance(value, _PLAIN) and not name.startswith("__")
        if plain and not _is_of_rank(name, value):
            yield name, value


def lambda_text(function: FunctionType) -> str:
    """The text of a lambda alone: ``inspect`` gives whole lines, with others on them."""
    code = function.__code__
    spots: list[Any] = [spot for spot in code.co_positions() if None not in spot]
    if code.co_name != "<lambda>" or not spots:
        return ""
    top, left = min((line, column) for line, _, column, _ in spots)
    end, right = max((line, column) for _, line, _, column in spots)
    lines = [linecache.getline(code.co_filename, n).encode() for n in range(top, end + 1)]
    lines[-1] = lines[-1][:right]
    lines[0] = lines[0][left:]
    return b"".join(lines).decode(errors="replace")


def _is_of_rank(name: str, value: Any) -> bool:
    """Whether this is what one process alone knows: its number, its device."""
    is_device = isinstance(value, str) and value.partition(":")[0] in _DEVICES
    return is_device or isinstance(value, torch.device) or "rank" in name.lower()


def _counts(value: Any, reader: FunctionType) -> bool:
    if isinstance(value, tuple):
        return all(_counts(one, reader) for one in value)
    if isinstance(value, FunctionType | type):
        return _package(value) == _package(reader)
    if isinstance(value, functools.partial):
        return _counts(value.func, reader)
    return isinstance(value, (*_PLAIN, Tensor, torch.dtype))


def _package(thing: Any) -> str:
    return (getattr(thing, "__module__", None) or "").partition(".")[0]
