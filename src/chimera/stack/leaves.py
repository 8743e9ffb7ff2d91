"""What a call gives and keeps, sorted: tensors go out through vmap, constants beside it."""

from __future__ import annotations

import enum
from types import BuiltinFunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chimera.paths.nest import LEAF, Shape, flatten
from chimera.stack.group import Group

Taken = tuple[list[Any], list[bool], Shape]
"""By leaf its place among the tensors, or itself; which of them are tensors; how they nest."""


class Unbatchable(Exception):
    """A call that gives or keeps an object that may hold tensors, or what one run cannot give."""


# What holds no tensor, so that it is the same for all members of a run.
_CONSTANTS: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice, type),
    *(torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format),
    *(enum.Enum, BuiltinFunctionType, np.generic),
)


def _is_constant(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return bool(value.dtype != np.object_)
    return isinstance(value, _CONSTANTS)


class Leaves:
    """Sorts a call's results: tensors go out through vmap, other values beside it.

    Args:
        group: the group, a module of which a result may be.
    """

    def __init__(self, group: Group) -> None:
        self.tensors: list[Tensor] = []
        self._group = group

    def _is_module(self, value: Any) -> bool:
        return any(value is module for _, module in self._group.reading.modules)

    def take(self, value: Any, *, objects: bool = False) -> Taken:
        """Raises Unbatchable for a leaf of which nothing is known."""
        if isinstance(value, Tensor):
            self.tensors.append(value)
            return [len(self.tensors) - 1], [True], LEAF
        leaves, shape = flatten(value, objects=objects)
        for leaf in leaves:
            known = isinstance(leaf, Tensor) or _is_constant(leaf) or self._is_module(leaf)
            if not known:
                kind = type(leaf).__name__
                raise Unbatchable(f"the call gives or keeps a {kind}, which may hold tensors")
        stacked = [isinstance(leaf, Tensor) for leaf in leaves]
        places: list[Any] = []
        for leaf, is_tensor in zip(leaves, stacked, strict=True):
            places.append(len(self.tensors) if is_tensor else leaf)
            if is_tensor:
                self.tensors.append(leaf)
        return places, stacked, shape
