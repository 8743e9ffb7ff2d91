"""The hooks of a tensor or a module: torch's names for them are reached here alone."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

_OF_MODULES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_ALL = [getattr(torch_modules, f"_global{name}", {}) for name in _OF_MODULES]
_OF_TENSOR = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")


def hooks_of_all() -> bool:
    """Whether a call of any module, or its backward pass, fires a hook."""
    return any(_OF_ALL)


@contextmanager
def without_hooks_of_all() -> Iterator[None]:
    """Hooks on all modules stay out of what this thread runs; those set inside fire."""
    me = threading.get_ident()
    held = [(table, key, hook) for table in _OF_ALL for key, hook in table.items()]
    muted = [_silent(hook, me) for _, _, hook in held]
    for (table, key, _), instead in zip(held, muted, strict=True):
        table[key] = instead
    try:
        yield
    finally:
        for (table, key, hook), instead in zip(held, muted, strict=True):
            if table.get(key) is instead:  # it was not removed meanwhile
                table[key] = hook


def _silent(hook: Callable[..., Any], thread: int) -> Callable[..., Any]:
    def instead(*args: Any, **kwargs: Any) -> Any:
        return None if threading.get_ident() == thread else hook(*args, **kwargs)

    return instead


def any_hooks(tensors: Iterable[Tensor]) -> bool:
    """Whether a gradient that reaches one of the tensors fires a hook."""
    return any(map(any, map(_OF_TENSOR, tensors)))


def has_hooks(tensor: Tensor) -> bool:
    """Whether a gradient that reaches ``tensor`` fires a hook."""
    return any(_OF_TENSOR(tensor))


def hook_tables(module: nn.Module) -> list[dict[int, Any]]:
    """Where the hooks stand that a call of ``module``, or its backward pass, fires; by number."""
    return [table for name in _OF_MODULES if (table := module.__dict__.get(name)) is not None]


def backward_tables(module: nn.Module) -> list[dict[int, Any]]:
    """Where hooks stand that a backward pass of ``module`` fires; by number."""
    return [table for name in _OF_MODULES[2:] if (table := module.__dict__.get(name))]


def hooks_of(module: nn.Module) -> Iterator[dict[int, Any]]:
    """Those of ``hook_tables`` in which hooks stand."""
    return (table for table in hook_tables(module) if table)


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of ``module`` itself, or its backward pass, fires a hook."""
    return any(getattr(module, name, None) for name in _OF_MODULES)
