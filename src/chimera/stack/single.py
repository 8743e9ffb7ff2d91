"""Members run one by one: each is the template with its own rows of the stacked tensors.

Gradients reach the stacked parameters; buffers that a call changes in place change in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.pointing import point_out
from chimera.draws.mode import Drawing, Key
from chimera.draws.recompute import restoring
from chimera.paths.nest import flatten
from chimera.paths.shared import link, shared
from chimera.paths.slots import GONE
from chimera.stack.absent import row_alone, rows_alone
from chimera.stack.batched import Call, Ran
from chimera.stack.each import Arguments
from chimera.stack.group import Group
from chimera.stack.outputs import alone


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
) -> Ran:
    standing = _Standing(group, place, tensors)
    with standing:
        try:
            args, kwargs = arguments.copies(place)
            with Drawing(key, [member], several=False) as drawing:

                def keep(function: Callable[..., Any]) -> Callable[..., Any]:
                    return standing.again(function, drawing.again(function))

                flags = [tensor.requires_grad for tensor in tensors]
                with restoring(keep), _leaves_flags():
                    output = call(group.template, args, kwargs)
            for index, (tensor, flag) in enumerate(zip(tensors, flags, strict=True)):
                if tensor.requires_grad != flag and group.trained[index]:
                    raise TypeError(f"{group.slots[index].path}: {_FLAG}")
            written = group.plain.written()
        except Exception as error:
            point_out(error, group.template, f"member {member}")
            raise
    slots = {index: tensor.unsqueeze(0) for index, tensor in written.slots.items()}
    buffers = {
        where: (alone(place, value), lasting) for where, (value, lasting) in written.buffers.items()
    }
    attributes = {
        where: alone(place, value, objects=True) for where, value in written.attributes.items()
    }
    return Ran(alone(place, output), drawing.calls, slots, buffers, attributes, written.links)


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


class _Standing:
    """A member in the place of the template: its tensors and the values that it alone has.

    Args:
        group: the group.
        place: of the member in it.
        tensors: the member's, one a slot.
    """

    def __init__(self, group: Group, place: int, tensors: list[Tensor]) -> None:
        self._own, self._exchange, self._tensors = _Own(group, place), group.plain, tensors
        self._stands = False

    def __enter__(self) -> None:
        self._own.__enter__()
        self._exchange.put(self._tensors)
        for tensor in self._tensors:
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.__deepcopy__ = partial(_leaf_of, tensor)  # type: ignore[method-assign]
        self._stands = True

    def __exit__(self, *_: object) -> None:
        self._stands = False
        self._exchange.take_back()
        self._own.__exit__()

    def again(self, function: Callable[..., Any], later: Callable[..., Any]) -> Callable[..., Any]:
        """``function``; after the member has left, ``later`` with the member in place again."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self._stands:
                return function(*args, **kwargs)
            with self:
                return later(*args, **kwargs)

        return run


def _leaf_of(row: Tensor, memo: dict[int, Any]) -> nn.Parameter:
    """A copy of a member's parameter, as ``copy.deepcopy`` makes it alone: a leaf of its own.

    Of what is no leaf, as a row of a stacked parameter is not, torch makes no copy.
    """
    copy = nn.Parameter(row.detach().clone(memory_format=torch.preserve_format))
    memo[id(row)] = copy
    return copy


class _Own:
    """The values that a member alone has of attributes, on the template for the time of a run."""

    def __init__(self, group: Group, place: int) -> None:
        self._group, self._place = group, place

    def __enter__(self) -> None:
        self._saved = {}
        modules = [module for _, module in self._group.reading.modules]
        links = shared(self._group.own_of(self._place))
        for (index, name), values in self._group.own.items():
            module = self._group.reading.modules[index][1]
            self._saved[index, name] = module.__dict__[name]
            value = values[self._place]
            if value is GONE:
                del module.__dict__[name]
            else:  # in containers of the call's own, so that a call that fails changes nothing
                module.__dict__[name] = _contained_anew(value)
        link([module.__dict__ for module in modules], links)

    def __exit__(self, *_: object) -> None:
        for (index, name), value in self._saved.items():
            self._group.reading.modules[index][1].__dict__[name] = value


def _contained_anew(value: Any) -> Any:
    leaves, shape = flatten(value, objects=True)
    return shape.rebuild(leaves)
