"""Functions of torch that are written in Python, opened so that a mode sees what they call.

Such a function asks whether a mode is on, and then hands itself to the mode as a whole.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

_ASKED = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
_names: dict[int, dict[str, Any]] = {}


@functools.cache
def opened(func: Any) -> Callable[..., Any] | None:
    """The same code, to which no mode is said to be on; None where ``func`` is not of the kind."""
    if not isinstance(func, types.FunctionType):
        return None
    names = func.__globals__
    if not any(name in names for name in _ASKED):
        return None
    known = _names.get(id(names))
    if known is None:
        known = _names[id(names)] = {**names, **dict.fromkeys(_ASKED, _no_mode)}
    same = types.FunctionType(
        func.__code__, known, func.__name__, func.__defaults__, func.__closure__
    )
    same.__kwdefaults__ = func.__kwdefaults__
    return same


def calling(func: Any, **instead: Callable[..., Any]) -> Callable[..., Any]:
    """``func``, opened, with other functions in the place of those that it calls by these names."""
    assert all(name in func.__globals__ for name in instead)
    names = {**func.__globals__, **dict.fromkeys(_ASKED, _no_mode), **instead}
    same = types.FunctionType(
        func.__code__, names, func.__name__, func.__defaults__, func.__closure__
    )
    same.__kwdefaults__ = func.__kwdefaults__
    return same


def _no_mode(*_: Any) -> bool:
    return False
