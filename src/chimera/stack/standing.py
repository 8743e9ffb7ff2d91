"""One member in the place of its group's template, for the time of a call, and again later.

A call that activation checkpointing makes again in a backward pass finds the member as it is then,
with the parameters that the graph holds, and what it writes stays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from chimera.paths.nest import LEAF, flatten
from chimera.paths.shared import link, shared
from chimera.paths.slots import GONE, Written
from chimera.stack.absent import row_alone
from chimera.stack.batched import Ran
from chimera.stack.group import Group
from chimera.stack.outputs import Outputs, alone
from chimera.stack.state import keep


class Standing:
    """A member in the place of the template: its tensors and the values that it alone has.

    Args:
        group: the group.
        place: of the member in it.
        tensors: the member's, one a slot.
    """

    def __init__(self, group: Group, place: int, tensors: list[Tensor]) -> None:
        self._own, self._exchange, self._tensors = _Own(group, place), group.plain, tensors
        self._trained = {
            slot.path: tensor
            for slot, tensor, trained in zip(group.slots, tensors, group.trained, strict=True)
            if trained
        }
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
            with self._own.group.turn:
                return self._run_again(later, args, kwargs)

        return run

    def later(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """A hook, which finds the member in place whenever it fires."""
        return self.again(hook, hook)

    def _run_again(self, later: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        written = None
        self._renew()
        try:
            with self:
                try:
                    return later(*args, **kwargs)
                finally:
                    written = self._exchange.written()
        finally:
            if written is not None:
                self._keep(written)

    def _renew(self) -> None:
        """Take what calls have written since; parameters are those that the graph holds."""
        group = self._own.group
        self._exchange = group.plain
        self._tensors = [
            self._trained[slot.path] if trained else row_alone(stacked, self._own.place)
            for slot, stacked, trained in zip(
                group.slots, group.tensors(), group.trained, strict=True
            )
        ]

    def _keep(self, written: Written) -> None:
        """Keep what a later call of the member alone wrote; the others are as they were."""
        if written.slots or written.buffers or written.attributes:
            place = self._own.place
            others = [i for i in range(len(self._own.group)) if i != place]
            runs = [ran_alone(place, None, written)]
            if others:
                runs.append(Ran(Outputs(others, [], LEAF, []), links=written.links))
            keep(self._own.group, runs)


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
        self.group, self.place = group, place

    def __enter__(self) -> None:
        self._saved = {}
        modules = [module for _, module in self.group.reading.modules]
        links = shared(self.group.own_of(self.place))
        for (index, name), values in self.group.own.items():
            module = self.group.reading.modules[index][1]
            self._saved[index, name] = module.__dict__[name]
            value = values[self.place]
            if value is GONE:
                del module.__dict__[name]
            else:  # in containers of the call's own, so that a call that fails changes nothing
                module.__dict__[name] = _contained_anew(value)
        link([module.__dict__ for module in modules], links)

    def __exit__(self, *_: object) -> None:
        for (index, name), value in self._saved.items():
            self.group.reading.modules[index][1].__dict__[name] = value


def _contained_anew(value: Any) -> Any:
    leaves, shape = flatten(value, objects=True)
    return shape.rebuild(leaves)


def ran_alone(place: int, output: Any, written: Written, draws: int = 0) -> Ran:
    """A run of the member at a place alone, which gave ``output``."""
    slots = {index: tensor.unsqueeze(0) for index, tensor in written.slots.items()}
    buffers = {
        where: (alone(place, value), lasting) for where, (value, lasting) in written.buffers.items()
    }
    attributes = {
        where: alone(place, value, objects=True) for where, value in written.attributes.items()
    }
    return Ran(alone(place, output), draws, slots, buffers, attributes, written.links)
