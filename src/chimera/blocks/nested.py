"""Nested values: tensors in tuples, lists and dicts; anything else is left alone."""

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from torch import Tensor


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in ``value``, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors(inner)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with ``change`` applied to each of its tensors; the containers are new ones."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        new = {} if type(value) is dict else copy(value)
        new.update((key, mapped(inner, change)) for key, inner in value.items())
        return new
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(inner, change) for inner in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(inner, change) for inner in value)
    return value
