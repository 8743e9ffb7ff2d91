"""The arguments of a call on N members: what they share, and what each has of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.build.inputs import Inputs
from chimera.paths.nest import LEAF, Shape, flatten


class Each:
    """A value of which every tensor carries a leading member axis; made by ``each``."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"each({self.value!r})"


def each(value: Any) -> Each:
    """Mark an argument as one a member: every tensor in it is ``[members, ...]``.

    Args:
        value: a tensor, or tensors nested in lists, tuples, dicts or dataclasses.

    Raises:
        TypeError: ``value`` holds no tensor, or is marked already.
    """
    if isinstance(value, Each):
        raise TypeError("each(...) got a value that is marked by each(...) already")
    if isinstance(value, Inputs):
        raise TypeError(
            "each(...) got ch.inputs(...): mark the arguments instead, "
            "as in ch.inputs(ch.each(a), mask=ch.each(b))"
        )
    if not any(isinstance(leaf, Tensor) for leaf in flatten(value)[0]):
        raise TypeError(f"each(...) needs a tensor or nested tensors, got {value!r:.80}")
    return Each(value)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Positional and keyword arguments, flat.

    Attributes:
        leaves: all leaves; those of ``each`` with the member axis first.
        own: for every leaf, whether it carries the member axis.
        shape: how the leaves nest; rebuilds ``(args, kwargs)``.
    """

    leaves: list[Any]
    own: list[bool]
    shape: Shape

    def rebuild(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` of one member's call."""
        args, kwargs = self.shape.rebuild(leaves)
        return args, kwargs

    def of_member(self, position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` of the member at ``position``."""
        return self.rebuild(
            [
                leaf[position] if own else leaf
                for leaf, own in zip(self.leaves, self.own, strict=True)
            ]
        )

    def copies(self, position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` of the member at ``position``, in tensors of its own."""
        return self.rebuild(
            [
                (leaf[position] if own else leaf).clone() if isinstance(leaf, Tensor) else leaf
                for leaf, own in zip(self.leaves, self.own, strict=True)
            ]
        )

    def cloned(self) -> Arguments:
        """The same arguments in tensors of their own."""
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        return Arguments(leaves, self.own, self.shape)

    def take(self, positions: Tensor | None) -> Arguments:
        """The arguments of the members at ``positions``; all of them for None."""
        if positions is None or not any(self.own):
            return self
        leaves = [
            leaf.index_select(0, positions.to(leaf.device)) if own else leaf
            for leaf, own in zip(self.leaves, self.own, strict=True)
        ]
        return Arguments(leaves, self.own, self.shape)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What a plan may depend on: how the leaves nest, their axes and dtypes."""
        parts = tuple(
            (leaf.dim(), leaf.dtype, own) if isinstance(leaf, Tensor) else type(leaf)
            for leaf, own in zip(self.leaves, self.own, strict=True)
        )
        return (self.shape, parts)

    @property
    def familiar(self) -> tuple[Any, ...] | None:
        """The shapes of the tensors and the other values; None where one cannot be hashed."""
        parts = tuple(leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in self.leaves)
        try:
            hash(parts)
        except TypeError:
            return None
        return parts


def arguments(args: Sequence[Any], kwargs: Mapping[str, Any], size: int) -> Arguments:
    """The arguments of a call on ``size`` members.

    Raises:
        ValueError: a tensor under ``each`` has no leading axis of ``size``.
    """
    if len(args) == 1 and not kwargs and isinstance(args[0], Inputs):
        args, kwargs = args[0].args, args[0].kwargs
    leaves: list[Any] = []
    own: list[bool] = []
    marked, shape = flatten((tuple(args), dict(kwargs)))
    inner: list[Shape] = []
    for leaf in marked:
        each = isinstance(leaf, Each)
        parts, part = flatten(leaf.value) if each else ([leaf], LEAF)
        inner.append(part)
        for value in parts:
            mine = each and isinstance(value, Tensor)
            if mine:
                check_axis(value, size)
            leaves.append(value)
            own.append(mine)
    if all(part is LEAF for part in inner):
        return Arguments(leaves, own, shape)
    return Arguments(leaves, own, _graft(shape, iter(inner)))


def _graft(shape: Shape, inner: Any) -> Shape:
    if shape.kind is None:
        grafted = next(inner)
        assert isinstance(grafted, Shape)
        return grafted
    parts = tuple(_graft(part, inner) for part in shape.parts)
    return Shape(shape.kind, shape.keys, parts, shape.extra)


def check_axis(tensor: Tensor, size: int) -> None:
    """Refuse a tensor under ``each`` without a leading axis of ``size``."""
    if tensor.dim() == 0 or tensor.shape[0] != size:
        came = "a tensor without axes" if tensor.dim() == 0 else f"shape {tuple(tensor.shape)}"
        raise ValueError(
            f"each(...) needs a leading axis of {size}, one entry a member, got {came}; "
            "leave out each(...) for what all members share"
        )


def index_of(positions: Sequence[int], device: torch.device) -> Tensor:
    """Positions as an index tensor."""
    return torch.tensor(positions, dtype=torch.int64, device=device)
