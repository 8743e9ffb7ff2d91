"""The words for the fact in which two structures differ.

Of functions of one code, what they hold tells them apart: an enclosing function's variable, a
default, an argument of a partial.
"""

from __future__ import annotations

import os
from typing import Any

from chimera.paths.describe import Opaque, same
from chimera.paths.structure import NOTHING, Fact

_MOST = 80


def describe_difference(pair: tuple[Fact, Fact]) -> str:
    """One line: the path, the property, and its two values."""
    a, b = pair
    where = a.path or "the module itself"
    if (a.path, a.name) != (b.path, b.name):
        return f"{where}: {a.name} stands where {b.path or 'the module itself'}: {b.name} does"
    name, one, other = _innermost(a.name, a.value, b.value)
    return f"{where}: {name} is {_show(one)} against {_show(other)}"


def _innermost(name: str, one: Any, other: Any) -> tuple[str, Any, Any]:
    """The part in which two stand-ins differ, by name: of functions and what wraps them."""
    if not _of_one_kind(one, other):
        return name, one, other
    kind = one[0]
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if not same(a, b)), 0)
    a, b = one[at], other[at]
    if kind == "function" and at > 1:
        function = one[1].co_name
        names = ("the file's variables", "a default", "a named default", "an attribute")
        free = one[1].co_freevars
        what = names[at - 2] if at < 6 else f"the variable {free[at - 6]!r}"
        return _innermost(f"{what} of the function {function}", a, b)
    if kind == "method" and at:
        return _innermost(name, a, b)
    if kind == "partial" and at:
        what = ("the function", "an argument", "a named argument")[at - 1]
        return _innermost(name if at == 1 else f"{what} of the partial", a, b)
    if kind == "nested" and at > 1:
        return _innermost(name, a, b)
    return name, one, other


def _of_one_kind(one: Any, other: Any) -> bool:
    """Whether both are stand-ins of several parts, of one kind and as many."""
    parts = isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other) > 1
    return parts and isinstance(one[0], str) and bool(one[0] == other[0])


def _show(value: Any) -> str:
    if value is NOTHING:
        return "nothing"
    if isinstance(value, Opaque):
        value = value.value
    if isinstance(value, tuple) and value[:1] == ("function",):
        code = value[1]
        file = os.path.basename(code.co_filename)
        return f"the function {code.co_name} ({file}, line {code.co_firstlineno})"
    text = value.__name__ if isinstance(value, type) else repr(value)
    return text if len(text) <= _MOST else text[: _MOST - 3] + "..."
