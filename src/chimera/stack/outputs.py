"""Outputs of members, put together in member order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.paths.nest import Shape, flatten


@dataclass(slots=True)
class Outputs:
    """What some members gave.

    Attributes:
        positions: the members, by position in the stack.
        leaves: flat; ``Stacked`` tensors have the members first, other values are the same for
            all of them.
        shape: how the leaves nest.
        stacked: for every leaf, whether it is such a tensor.
    """

    positions: list[int]
    leaves: list[Any]
    shape: Shape
    stacked: list[bool]

    def of_member(self, place: int) -> Any:
        """The output of the ``place``-th of these members."""
        return self.shape.rebuild(
            [
                leaf[place] if stacked else leaf
                for leaf, stacked in zip(self.leaves, self.stacked, strict=True)
            ]
        )


def alone(position: int, value: Any, *, objects: bool = False) -> Outputs:
    """What one member gave; with ``objects`` as attributes nest."""
    leaves, shape = flatten(value, objects=objects)
    stacked = [isinstance(leaf, Tensor) for leaf in leaves]
    leaves = [leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return Outputs([position], leaves, shape, stacked)


def merge(parts: Sequence[Outputs]) -> Any:
    """One output for all members, in member order.

    A tensor comes back ``[members, ...]``; where members give tensors of different shapes or
    dtypes, it is a list of them. Any other value comes once where all members give the same, else
    as a list. Where outputs nest differently, the whole is a list of the members' outputs.
    """
    if len(parts) == 1 and parts[0].positions == list(range(len(parts[0].positions))):
        return parts[0].shape.rebuild(parts[0].leaves)
    positions = [position for part in parts for position in part.positions]
    order = sorted(range(len(positions)), key=positions.__getitem__)
    first = parts[0]
    if any(part.shape != first.shape or part.stacked != first.stacked for part in parts):
        outputs = [part.of_member(i) for part in parts for i in range(len(part.positions))]
        return [outputs[place] for place in order]
    return first.shape.rebuild(
        [
            _merge_tensors([part.leaves[i] for part in parts], order)
            if stacked
            else _merge_values(parts, i, order)
            for i, stacked in enumerate(first.stacked)
        ]
    )


def is_uneven(parts: Sequence[Outputs]) -> bool:
    """Whether ``merge`` gives a list where members gave tensors, since theirs differ."""
    if len(parts) == 1:
        return False
    first = parts[0]
    if any(part.shape != first.shape or part.stacked != first.stacked for part in parts):
        return True
    return any(
        len({_kind(part.leaves[i]) for part in parts}) > 1
        for i, stacked in enumerate(first.stacked)
        if stacked
    )


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape[1:], tensor.dtype, tensor.device


def _merge_tensors(tensors: list[Tensor], order: list[int]) -> Tensor | list[Tensor]:
    if len(tensors) == 1 and order == list(range(len(order))):
        return tensors[0]
    if len(set(map(_kind, tensors))) > 1:
        rows = [row for tensor in tensors for row in tensor.unbind(0)]
        return [rows[place] for place in order]
    together = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    if order == list(range(len(order))):
        return together
    return together.index_select(0, torch.tensor(order, device=together.device))


def _merge_values(parts: Sequence[Outputs], leaf: int, order: list[int]) -> Any:
    values = [part.leaves[leaf] for part in parts for _ in part.positions]
    if all(_equal(values[0], value) for value in values[1:]):
        return values[0]
    return [values[place] for place in order]


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # noqa: BLE001 - a user's __eq__ may raise anything: then not known to be equal
        return False
