"""Whether a module may change its input in place, and a copy of the input for one that may.

Contract: a block that promises never to change its input (Parallel, Residual) gives a child the
input itself only where the child surely leaves it alone, and a copy otherwise. To look afterwards
(a tensor's version counter) is too late: by then another branch may have given the input on as its
output, or kept it for its gradient.

Surely alone: a layer of ``torch.nn`` as torch ships it, with ``inplace`` off and no hooks, and a
chain up to the first layer whose output is a new tensor (a ReLU in place after a Linear changes
the Linear's output, not the input). A module of the user's own may do anything, and gets a copy:
one pass over the input's memory, and nothing in a compiled graph, where the compiler drops a copy
that nobody changes. The look itself takes a few microseconds a branch.

Torch's ``_forward_hooks`` and ``_forward_pre_hooks`` are private names, read in this file alone.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from chimera.blocks.children import children
from chimera.blocks.sequential import Sequential
from chimera.paths.nest import map_leaves


class Touch(Enum):
    """What a module may do to its input."""

    FRESH = "leaves it alone and gives new tensors"
    PASSES = "leaves it alone, but may give it, or a view of it, on"
    MAY = "may change it"


_FRESH = {
    nn.Linear, nn.Bilinear, nn.Embedding,
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softmax, nn.LogSoftmax,
}  # fmt: skip

_PROMISES: dict[type[nn.Module], Callable[[Any], Touch]] = {}


def promise(kind: type[nn.Module], touch: Callable[[Any], Touch]) -> None:
    """Say what an instance of ``kind``, a block of ours, may do to its input."""
    _PROMISES[kind] = touch


def touch_of(module: nn.Module) -> Touch:
    """What ``module`` may do to its input, as far as can be known without running it."""
    own = vars(module)
    if own["_forward_pre_hooks"] or own["_forward_hooks"] or "forward" in own:
        return Touch.MAY
    kind = type(module)
    if kind in _FRESH:
        return Touch.MAY if own.get("inplace") else Touch.FRESH
    if kind in _PROMISES:
        return _PROMISES[kind](module)
    if kind is nn.Sequential:
        return touch_of_chain(children(module))
    known = kind.__module__.startswith("torch.nn.modules.") and not children(module)
    return Touch.PASSES if known and not own.get("inplace") else Touch.MAY


def touch_of_chain(modules: list[nn.Module]) -> Touch:
    """What a chain of modules may do to the input of the first."""
    for module in modules:
        touch = touch_of(module)
        if touch is not Touch.PASSES:
            return touch
    return Touch.PASSES


def may_change(module: nn.Module, *, given_on: bool = False) -> bool:
    """Whether ``module`` needs a copy of its input.

    Args:
        module: who takes the input.
        given_on: whether to give the input, or a view of it, on counts too, for a caller whose next
            step may change what came out.
    """
    if torch.compiler.is_compiling():
        return True
    touch = touch_of(module)
    return touch is Touch.MAY or (given_on and touch is Touch.PASSES)


def copied(values: Any) -> Any:
    """A copy of nested tensors; gradients flow back. A tensor that comes twice stays one."""
    seen: dict[Tensor, Tensor] = {}

    def once(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf not in seen:
            seen[leaf] = leaf.clone()
        return seen[leaf]

    return map_leaves(once, values)


promise(Sequential, lambda block: touch_of_chain(children(block)))
