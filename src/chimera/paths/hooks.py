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
    with _lock:
        held = [(table, key, _muted(table, key)) for table in _OF_ALL for key in table]
        for _, _, muted in held:
            muted.threads.append(me)
    try:
        yield
    finally:
        with _lock:
            for table, key, muted in held:
                muted.threads.remove(me)
                # Another thread may still be inside, or it was removed meanwhile.
                if not muted.threads and table.get(key) is muted:
                    table[key] = muted.hook


_lock = threading.Lock()


class _Muted:
    """A hook that some threads do not fire."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook
        self.threads: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None if threading.get_ident() in self.threads else self.hook(*args, **kwargs)


def _muted(table: dict[int, Any], key: int) -> _Muted:
    if not isinstance(table[key], _Muted):
        table[key] = _Muted(table[key])
    found: _Muted = table[key]
    return found


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
