"""The tensors of aligned modules as one stacked tensor, without a copy.

A ``Joint`` keeps one memory ``[lanes, ...]`` of which the lanes' own parameters or buffers are the
rows; where those differ in shape it is flat, one row's numbers after the other's. The rows stay
where they were, under their own names, and an optimizer, a checkpoint or a user who writes to one
writes to the row. Where the rows are elsewhere (moved by ``.to``, cast, copied), they are joined
anew at the next call; where other tensors stand in the modules (as under
``torch.func.functional_call``, or a parameter put in the place of another), and while torch's
compiler traces, what stands there is stacked at every call.

``_parameters`` and ``_buffers`` of ``nn.Module`` are reached here, in no other file of this room:
``getattr`` takes ten times as long.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chimera.fuse.flat import at_once, flat
from chimera.fuse.reached import Reach
from chimera.fuse.transforms import transformed
from chimera.paths.version import versions

Home = tuple[nn.Module, str]
"""A module and the name of its parameter or buffer."""


class Joint:
    """The tensors at ``homes`` as one.

    Args:
        homes: one a lane; their tensors are of one dtype and device.
        alone: whether no other joint holds one of them; else they are stacked at every call.

    Attributes:
        places: the homes themselves.
        is_buffer: whether they are buffers.
        shapes: of the tensors; where they differ the memory is flat.
    """

    def __init__(self, homes: Sequence[Home], *, alone: bool = True) -> None:
        self.places = list(homes)
        self._homes = [_home(module, name) for module, name in homes]
        self.is_buffer = homes[0][1] in homes[0][0]._buffers
        self.alone = alone
        self.shapes = [tuple(tensor.shape) for tensor in self.current()]
        self._even = len(set(self.shapes)) == 1
        self._sizes = [math.prod(shape) for shape in self.shapes]
        self._rows: list[Tensor] = []
        self._pointers: list[int] = []
        self._base: Tensor | None = None

    def __len__(self) -> int:
        return len(self._homes)

    def current(self) -> list[Tensor]:
        """The lanes' tensors as they stand in their modules now."""
        return [home[name] for home, name in self._homes]

    def shares(self) -> bool:
        """Whether one tensor stands in several lanes."""
        return len({id(tensor) for tensor in self.current()}) < len(self)

    def stacked(self, rows: Sequence[Tensor]) -> Tensor:
        """``rows`` as one tensor, in memory of its own."""
        if self._even and not at_once(rows):
            return torch.stack(list(rows))
        whole = flat(rows)
        return whole.view(len(rows), *rows[0].shape) if self._even else whole

    def parts(self, whole: Tensor) -> Sequence[Tensor]:
        """The rows of ``whole``, as views."""
        if self._even:
            return whole.unbind(0)
        split = zip(torch.split_with_sizes(whole, self._sizes), self.shapes, strict=True)
        return [part.view(shape) for part, shape in split]

    def memory(self, now: list[Tensor]) -> Tensor | None:
        """The memory ``[lanes, ...]`` that the rows ``now`` share; None where they do not."""
        if not self.alone:
            return None
        if not self._rows:
            if not self._can_join(now):
                return None
            self._rows = now
            self._join()
        elif any(map(operator.is_not, now, self._rows)):
            return None
        elif [tensor.data_ptr() for tensor in now] != self._pointers:
            if not self._can_join(now):
                return None
            self._join()
        return self._base

    def _join(self) -> None:
        with torch.no_grad():
            self._base = self.stacked([row.detach() for row in self._rows])
            for row, memory in zip(self._rows, self.parts(self._base), strict=True):
                row.data = memory
        self._pointers = [row.data_ptr() for row in self._rows]

    def _can_join(self, tensors: Sequence[Tensor]) -> bool:
        """Whether they are plain tensors, each of its own, of one kind, that may change memory."""
        first = tensors[0]
        return len({id(tensor) for tensor in tensors}) == len(tensors) and all(
            type(tensor) in (nn.Parameter, Tensor, nn.Buffer)
            and tensor.is_leaf
            and not tensor.is_inference()
            and tensor.layout is torch.strided
            and (tensor.dtype, tensor.device) == (first.dtype, first.device)
            and tensor.shape == shape
            for tensor, shape in zip(tensors, self.shapes, strict=True)
        )


def _home(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    kept: dict[str, Any] = module._buffers if name in module._buffers else module._parameters
    return kept, name


def joined(joints: Sequence[Joint], reach: Reach | None = None) -> tuple[list[Tensor], bool]:
    """The tensors ``[lanes, ...]`` of all joints, and whether each is its rows' own memory.

    Gradients reach the rows, those of branches alone that a backward came from, as ``reach`` says.
    """
    rows = [joint.current() for joint in joints]
    if transformed():
        return [joint.stacked(now) for joint, now in zip(joints, rows, strict=True)], False
    found = [joint.memory(now) for joint, now in zip(joints, rows, strict=True)]
    own = all(memory is not None for memory in found)
    if not torch.is_grad_enabled():
        pairs = zip(joints, rows, found, strict=True)
        return [joint.stacked(now) if m is None else m for joint, now, m in pairs], own
    wanted = {i for i, now in enumerate(rows) if any(row.requires_grad for row in now)}
    tensors = [
        joint.stacked([row.detach() for row in now] if i in wanted else now) if m is None else m
        for i, (joint, now, m) in enumerate(zip(joints, rows, found, strict=True))
    ]
    if wanted:
        flat = [row for i in wanted for row in rows[i]]
        kept = [row for i in wanted if found[i] is not None for row in rows[i]]
        asked = Asked([joints[i] for i in wanted], [tensors[i] for i in wanted], kept, reach)
        made = _Joined.apply(asked, *flat)  # type: ignore[no-untyped-call]
        for i, tensor in zip(wanted, made, strict=True):
            tensors[i] = tensor
    return tensors, own


def write_back(
    joints: Sequence[Joint], rows: Sequence[Sequence[Tensor]], tensors: Sequence[Tensor]
) -> None:
    """Let buffers ``rows``, of which ``tensors`` are copies, be what was made of them."""
    for joint, mine, tensor in zip(joints, rows, tensors, strict=True):
        if joint.is_buffer:
            for row, new in zip(mine, joint.parts(tensor), strict=True):
                row.copy_(new)


@dataclass(frozen=True, slots=True)
class Asked:
    """What gradients are asked for.

    Attributes:
        joints: of the rows.
        tensors: the rows of each as one tensor.
        kept: the rows that are memory of it.
        reach: says which branches a backward came from; None for all.
    """

    joints: Sequence[Joint]
    tensors: Sequence[Tensor]
    kept: Sequence[Tensor]
    reach: Reach | None


class _Joined(torch.autograd.Function):
    """Rows as one tensor a joint; its backward hands each row its part of the gradient."""

    @staticmethod
    def forward(ctx: Any, asked: Asked, *rows: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.joints, ctx.reach, ctx.kept = asked.joints, asked.reach, asked.kept
        ctx.versions = versions(asked.kept)  # no row is an inference tensor, see _can_join
        return tuple(tensor.detach() for tensor in asked.tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if versions(ctx.kept) != ctx.versions:
            raise RuntimeError(
                "a parameter of fused branches was changed in place between forward and backward, "
                "so that the gradient would be that of other weights; step the optimizer after "
                "backward"
            )
        found: list[Tensor | None] = [None]
        for number, (grad, joint) in enumerate(zip(grads, ctx.joints, strict=True)):
            if grad is None:
                found += [None] * len(joint)
                continue
            parts = joint.parts(grad)
            used = None if ctx.reach is None else ctx.reach.rows(number, len(joint))
            found += (
                parts
                if used is None
                else [part if one else None for part, one in zip(parts, used, strict=True)]
            )
        return tuple(found)
