"""The hooks of a tensor or a module: torch's names for them are reached here alone."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_OF_MODULES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(tensor: Tensor) -> bool:
    """Whether a gradient that reaches ``tensor`` fires a hook."""
    return bool(tensor._backward_hooks) or bool(tensor._post_accumulate_grad_hooks)


def hooks_of(module: nn.Module) -> Iterator[dict[int, Any]]:
    """The tables of the hooks that a call of ``module``, or its backward pass, fires; by number."""
    return (table for name in _OF_MODULES if (table := module.__dict__.get(name)))


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of ``module`` itself, or its backward pass, fires a hook."""
    return any(getattr(module, name, None) for name in _OF_MODULES)
