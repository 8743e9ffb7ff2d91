"""Members run one by one: each is the template with its own rows of the stacked tensors.

Gradients reach the stacked parameters; buffers that a call changes in place change in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from chimera.build.pointing import point_out
from chimera.draws.mode import Drawing, Key
from chimera.draws.recompute import Stopped, restoring
from chimera.stack.absent import row_alone, rows_alone
from chimera.stack.batched import Call, Ran
from chimera.stack.each import Arguments
from chimera.stack.group import Group
from chimera.stack.hooked import check_left, standing_later
from chimera.stack.moved import Moved
from chimera.stack.own_leaves import Asks, OwnLeaves
from chimera.stack.standing import Standing, ran_alone


def run_single(
    group: Group,
    call: Call,
    arguments: Arguments,
    *,
    key: Key,
    members: Sequence[int],
    leaves: bool = False,
    watch: bool = False,
) -> tuple[list[Ran], bool]:
    """Run every member of a group by itself.

    Args:
        group: the group.
        call: what to do with one member, its positional and its keyword arguments.
        arguments: of the whole group; tensors are copied, so that no member changes another's.
        key: of the draws.
        members: the ids of the group's members.
        leaves: let the members have parameters that are leaves.
        watch: stop a member that asks for them, where it has none, or that meets a tensor which
            is no member's. Hooks of tensors are watched for, too.

    Returns:
        The runs, and whether members hooked tensors.

    Raises:
        NeedsLeaves: with ``watch``, a member asks for leaves.
        TypeError: with ``watch``, a member reaches a tensor in a place of which nothing is known.
        Exception: whatever the call raises, with a note that names the member.
    """
    group.partial = group.partial or len(group) > 1
    own = OwnLeaves(group) if leaves else None
    rows = [] if own else [_rows(group, index) for index in range(len(group.slots))]
    moved = Moved(group)
    twins = {id(slot.tensor): slot.path for slot in group.slots}
    runs, hooks = [], False
    for place in range(len(group)):
        tensors = own.of(place) if own else [row[place] for row in rows]
        asks = Asks([] if own else tensors, twins) if watch else nullcontext()
        runs.append(_run(group, call, arguments, place, tensors, key, members[place], asks, moved))
        hooks |= isinstance(asks, Asks) and asks.hooks
        if own is not None:
            own.leave(place, tensors)
    if own is not None:
        own.settle()
    moved.settle()
    return runs, hooks


def _rows(group: Group, index: int) -> Sequence[Tensor]:
    """One tensor a member, which shares the memory of its row of a stacked tensor.

    A frozen member's takes no gradient.
    """
    stacked = group.tensors()[index]
    if not stacked.requires_grad:
        return [row_alone(stacked, place) for place in range(stacked.shape[0])]
    frozen = group.frozen(index)
    with torch.enable_grad():  # a parameter requires a gradient where none is recorded, too
        rows = rows_alone(stacked)
    if frozen is None:
        return rows
    return [row_alone(stacked, i) if still else rows[i] for i, still in enumerate(frozen.tolist())]


def _run(
    group: Group,
    call: Call,
    arguments: Arguments,
    place: int,
    tensors: list[Tensor],
    key: Key,
    member: int,
    asks: AbstractContextManager[Any],
    moved: Moved,
) -> Ran:
    standing = Standing(group, place, tensors)
    with standing:
        try:
            args, kwargs = arguments.copies(place)
            with Drawing(key, [member], several=False) as drawing:

                def again(function: Callable[..., Any]) -> Callable[..., Any]:
                    return standing.again(function, drawing.again(function))

                flags = [tensor.requires_grad for tensor in tensors]
                seen = [tensor.detach() for tensor in tensors]
                if isinstance(asks, Asks):
                    asks.later = standing.later
                modules = [module for _, module in group.reading.modules]
                with restoring(again), standing_later(modules, standing.later), asks:
                    output = call(group.template, args, kwargs)
            for index, (tensor, flag) in enumerate(zip(tensors, flags, strict=True)):
                if tensor.requires_grad != flag and group.trained[index]:
                    raise TypeError(f"{group.slots[index].path}: {_FLAG}")
            moved.take(place, seen, tensors)
            written = group.plain.written()
            check_left(group, tensors, written)
        except Stopped:
            raise
        except Exception as error:
            point_out(error, group.template, f"member {member}")
            raise
    return ran_alone(place, output, written, drawing.calls)


_FLAG = (
    "forward changes requires_grad of a parameter and leaves it so; change it before members are "
    "stacked, change it back at the end of forward, or let forward take parameter.detach()"
)
