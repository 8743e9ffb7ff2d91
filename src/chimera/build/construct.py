"""Calling a factory: under a seed of its own, and without data."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from chimera.build.datafree import DataFree
from chimera.decide.ending import not_exiting
from chimera.decide.explore import boundary
from chimera.draws.seeds import derive, forked
from chimera.paths.raised import users_line

Factory = Callable[..., nn.Module]


def construct(
    factory: Factory, args: tuple[Any, ...], kwargs: dict[str, Any], seed: int, index: int
) -> nn.Module:
    """Instance ``index`` of a factory, made under a generator forked for (seed, index).

    Raises:
        TypeError: if ``factory`` does not return a module.
        Exception: what the factory raises, with a note that names the instance.
    """
    with forked(derive(seed, "instance", index)):
        return _made(factory, args, kwargs, f"in instance {index} of {name_of(factory)}")


def construct_without_data(factory: Factory) -> nn.Module:
    """An instance of a factory whose large tensors have no data.

    Raises:
        TypeError: if ``factory`` does not return a module.
        Exception: what the factory raises, with a note that names it.
    """
    with forked(derive(0, "instance", 0)), warnings.catch_warnings(), DataFree():
        warnings.simplefilter("ignore")
        return _made(factory, (), {}, f"in {name_of(factory)}, constructed without data")


@boundary
def _called(factory: Factory, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return factory(*args, **kwargs)


def _made(factory: Factory, args: tuple[Any, ...], kwargs: dict[str, Any], where: str) -> nn.Module:
    try:
        with not_exiting():
            made = _called(factory, args, kwargs)
    except Exception as error:
        line = users_line(error)
        error.add_note(where if line is None else f"{where}\n  line: {line}")
        raise
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"{name_of(factory)} must return an nn.Module; got {made!r} of type "
            f"{type(made).__name__}"
        )
    return made


def check_factory(value: Any, argument: str) -> Factory:
    """``value``, if it can be called to make modules.

    Raises:
        TypeError: if it is a module already, or cannot be called.
    """
    if isinstance(value, nn.Module):
        name = type(value).__name__
        raise TypeError(
            f"{argument} must be a class or a function that makes a module; got an instance of "
            f"{name}; give the class ({name}), or a function: lambda: {name}(...)"
        )
    if not callable(value):
        raise TypeError(
            f"{argument} must be a class or a function that makes a module; got {value!r} of type "
            f"{type(value).__name__}"
        )
    factory: Factory = value
    return factory


def name_of(factory: Any) -> str:
    """The factory's own name."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return getattr(factory, "__name__", None) or type(factory).__name__


def as_dtype(value: Any) -> torch.dtype | None:
    """A floating ``torch.dtype``, or None.

    Raises:
        TypeError: if ``value`` is something else.
    """
    if value is None or (isinstance(value, torch.dtype) and value.is_floating_point):
        return value
    raise TypeError(f"dtype must be a floating torch.dtype such as torch.float32; got {value!r}")
