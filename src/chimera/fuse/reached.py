"""Outputs of branches one by one, and gradients for those branches alone whose outputs were used.

A parameter that a backward does not come to has no gradient, None, so that an optimizer leaves it
alone. Branches that run as one have one gradient; where a block gives its branches' outputs one by
one (a tuple, or to a function that combines them), some may be left out of the loss. ``parted``
notes whose outputs a backward came from, and ``joint`` hands a gradient to their parameters alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chimera.fuse.transforms import transformed

Cut = tuple[tuple[int, ...], int] | None
"""Where branches' outputs stand in one tensor: their widths and along which axis, or its rows."""


class Reach:
    """Whose outputs a backward came from, in one call of a part.

    Attributes:
        branches: how many there are.
    """

    def __init__(self, branches: int) -> None:
        self.branches = branches
        self._used: dict[int | None, list[bool]] = {}

    def note(self, used: dict[int | None, list[bool]]) -> None:
        """Which branches were used; before the backward of the part itself.

        Args:
            used: by the number of what ``joint.joined`` made; under None for all that is not named.
        """
        self._used = used

    def rows(self, number: int, rows: int) -> list[bool] | None:
        """Which rows of a joint were used; None for all. A branch's rows stand side by side."""
        used = self._used.get(number, self._used.get(None))
        if used is None or all(used):
            return None
        each = rows // self.branches
        return [one for one in used for _ in range(each)]


def parted(wholes: Sequence[Tensor], reach: Reach, cut: Cut = None) -> list[Sequence[Tensor]]:
    """The branches' parts of each of ``wholes``; ``reach`` learns which a backward comes from."""
    found = {i: _parts(whole, cut) for i, whole in enumerate(wholes) if not whole.requires_grad}
    wanted = [i for i in range(len(wholes)) if i not in found]
    if transformed() or not torch.is_grad_enabled():
        found |= {i: _parts(wholes[i], cut) for i in wanted}
    elif wanted:
        inputs = [wholes[i] for i in wanted]
        rows = _Parted.apply(reach, cut, *inputs)  # type: ignore[no-untyped-call]
        count = reach.branches
        found |= {i: rows[n * count : (n + 1) * count] for n, i in enumerate(wanted)}
    return [found[i] for i in range(len(wholes))]


def _parts(whole: Tensor, cut: Cut) -> Sequence[Tensor]:
    return whole.unbind(0) if cut is None else whole.split(*cut)


class _Parted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reach: Reach, cut: Cut, *wholes: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        rows = [row for whole in wholes for row in _parts(whole, cut)]
        ctx.whose, ctx.cut = reach, cut
        ctx.shapes = [row.shape for row in rows]
        return tuple(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        count = ctx.whose.branches
        found: list[Tensor | None] = []
        used = []
        for start in range(0, len(grads), count):
            mine, shapes = grads[start : start + count], ctx.shapes[start : start + count]
            used.append([grad is not None for grad in mine])
            found.append(_whole(mine, shapes, ctx.cut))
        ctx.whose.note(_by_joint(ctx, used))
        return None, None, *found


def _whole(grads: Sequence[Tensor | None], shapes: Sequence[torch.Size], cut: Cut) -> Tensor | None:
    """The gradient of what was parted: zeros where there is none."""
    known = next((grad for grad in grads if grad is not None), None)
    if known is None:
        return None
    full = [
        known.new_zeros(shape) if grad is None else grad
        for grad, shape in zip(grads, shapes, strict=True)
    ]
    return torch.stack(full) if cut is None else torch.cat(full, cut[1])


def _by_joint(ctx: Any, used: list[list[bool]]) -> dict[int | None, list[bool]]:
    """Which branches used the rows of each joint; several outputs of a branch may use others."""
    if all(one == used[0] for one in used):
        return {None: used[0]}
    found: dict[int | None, list[bool]] = {}
    for (node, number), mine in zip(ctx.next_functions, used, strict=True):
        for joint in _joints(node, number, ctx.whose):
            before = found.get(joint, [False] * len(mine))
            found[joint] = [a or b for a, b in zip(before, mine, strict=True)]
    return found


def _joints(node: Any, number: int, reach: Reach) -> set[int]:
    """The numbers of what ``joint.joined`` made in this call that an output comes from."""
    found, seen = set(), set()
    left = [(node, number)]
    while left:
        here, number = left.pop()
        if getattr(here, "reach", None) is reach:
            found.add(number)
        elif here is not None and here not in seen:
            seen.add(here)
            left.extend(here.next_functions)
    return found
