"""The type checker of `make shapes`: annotated shapes and dtypes, and nothing else.

jaxtyping wraps every function of the package with it. Other hints are left to mypy: what tests give
on purpose, a wrong type to see it refused, must reach the code that refuses it.
"""

import functools
import typing
from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import AbstractArray


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its annotated shapes checked at each call."""
    hints = {
        name: hint
        for name, hint in getattr(function, "__annotations__", {}).items()
        if _has_shape(hint)
    }
    if not hints:
        return function

    @functools.wraps(function)
    def copy(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    copy.__annotations__ = hints
    return beartype(copy)


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(map(_has_shape, typing.get_args(hint)))
