"""Members run one by one: each is the template with its own rows of the stacked tensors.

Gradients reach the stacked parameters; buffers that a call changes in place change in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.pointing import point_out
from chimera.draws.mode import Drawing, Key
from chimera.draws.recompute import Stopped, restoring
from chimera.stack.absent import absent, row_alone, rows_alone
from chimera.stack.batched import Call, Ran
from chimera.stack.each import Arguments
from chimera.stack.group import Group
from chimera.stack.standing import Standing, ran_alone


def run_single(
    group: Group, call: Call, arguments: Arguments, *, key: Key, members: Sequence[int]
) -> list[Ran]:
    """Run every member of a group by itself.

    Args:
        group: the group.
        call: what to do with one member, its positional and its keyword arguments.
        arguments: of the whole group; tensors are copied, so that no member changes another's.
        key: of the draws.
        members: the ids of the group's members.

    Raises:
        Exception: whatever the call raises, with a note that names the member.
    """
    group.partial = group.partial or len(group) > 1
    rows = [_rows(group, index) for index in range(len(group.slots))]
    return [
        _run(group, call, arguments, place, [row[place] for row in rows], key, members[place])
        for place in range(len(group))
    ]


def _rows(group: Group, index: int) -> Sequence[Tensor]:
    """One tensor a member, which shares the memory of its row of a stacked tensor.

    A frozen member's takes no gradient.
    """
    stacked = group.tensors()[index]
    if not stacked.requires_grad:
        return [row_alone(stacked, place) for place in range(stacked.shape[0])]
    frozen = group.frozen(index)
    rows = rows_alone(stacked)
    _give_gradients(stacked, rows)
    if frozen is None:
        return rows
    return [row_alone(stacked, i) if still else rows[i] for i, still in enumerate(frozen.tolist())]


def _give_gradients(stacked: Tensor, rows: Sequence[Tensor]) -> None:
    """Let each row have the gradient that has added up so far, for who asks in forward."""
    grad = stacked.grad if stacked.is_leaf else None
    if grad is None or grad.layout != torch.strided:
        return
    left_out = absent(grad)
    for place, row in enumerate(rows):
        if left_out is None or not left_out[place]:
            row.grad = grad.detach()[place]


def _run(
    group: Group,
    call: Call,
    arguments: Arguments,
    place: int,
    tensors: list[Tensor],
    key: Key,
    member: int,
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
                with restoring(again), _leaves_flags():
                    output = call(group.template, args, kwargs)
            for index, (tensor, flag) in enumerate(zip(tensors, flags, strict=True)):
                if tensor.requires_grad != flag and group.trained[index]:
                    raise TypeError(f"{group.slots[index].path}: {_FLAG}")
            _take_over(group, place, seen, tensors)
            written = group.plain.written()
        except Stopped:
            raise
        except Exception as error:
            point_out(error, group.template, f"member {member}")
            raise
    return ran_alone(place, output, written, drawing.calls)


def _take_over(group: Group, place: int, seen: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Take the numbers of tensors that the call gave other memory, as ``x.data = y`` does.

    ``seen`` stands for the memory that they had, a member's rows of the stacked tensors.
    """
    for slot, before, now in zip(group.slots, seen, tensors, strict=True):
        known = type(now) in (Tensor, nn.Parameter) and not now.is_meta
        if not known or now.layout != torch.strided or before.is_set_to(now):
            continue
        if (before.shape, before.dtype, before.device) != (now.shape, now.dtype, now.device):
            raise TypeError(
                f"{slot.path}: forward gives its .data to {tuple(now.shape)} {now.dtype} on "
                f"{now.device}, a member of a stack keeps {tuple(before.shape)} {before.dtype} on "
                f"{before.device}; assign a buffer anew instead, as in self.name = value"
            )
        before.data.copy_(now.detach())


_FLAG = (
    "forward changes requires_grad of a parameter, which members do not have to themselves inside "
    "a call; change it before they are stacked, or let forward take parameter.detach()"
)


@contextmanager
def _leaves_flags() -> Iterator[None]:
    """Says what is meant where torch refuses to change ``requires_grad`` of what is no leaf."""
    try:
        yield
    except RuntimeError as error:
        if "you can only change requires_grad flags of leaf" not in str(error):
            raise
        raise TypeError(_FLAG) from error
