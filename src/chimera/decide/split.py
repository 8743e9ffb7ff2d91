"""Conditions on data when many members run as one: read for all, recorded, replayed for a part.

Inside ``torch.vmap`` a tensor of one number holds one number a member. ``Decisions`` reads them
all. While they agree, the run goes on with that value; where they differ, ``Differ`` tells which
member asked for what, and the caller runs each part again with its recorded decisions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chimera.decide.watch import convert
from chimera.paths.version import version


class Differ(Exception):
    """Members differ in a condition.

    Attributes:
        outcomes: one value for each member of the run, in order.
    """

    def __init__(self, outcomes: list[Any]) -> None:
        super().__init__("members differ in a condition on data")
        self.outcomes = outcomes


class Decisions:
    """Answers conditions in one run: first as recorded, then as the members' numbers say.

    Args:
        recorded: the values to replay, in the order of the conditions.

    Attributes:
        made: the values so far, in order.
        asked: whether the module asked if a tensor requires a gradient.
        refused: what was raised. The module may have caught it: then the run does not count.
    """

    def __init__(self, recorded: Sequence[Any] = ()) -> None:
        self.made: list[Any] = []
        self.asked = False
        self.refused: Differ | None = None
        self._recorded = list(recorded)

    def __call__(self, tensor: Tensor, conversion: str) -> Any:
        if conversion == "requires_grad":
            self.asked = True
            return requires_grad(tensor)
        place = len(self.made)
        if place < len(self._recorded):
            value = self._recorded[place]
        else:
            if conversion != "tolist":
                tensor = tensor.reshape(())  # raises for a tensor of several numbers, as alone
            values = per_member(tensor)
            outcomes = [convert(each, conversion) for each in values]
            value = outcomes[0]
            if any(not _agree(value, other) for other in outcomes[1:]):
                self.refused = Differ(outcomes)
                raise self.refused
        self.made.append(value)
        return copy.deepcopy(value)  # a list is the module's to change


def parts_of(outcomes: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """The distinct outcomes, each with the places that have it, in order of first appearance."""
    parts: dict[Any, tuple[Any, list[int]]] = {}
    for place, outcome in enumerate(outcomes):
        parts.setdefault(_name(outcome), (outcome, []))[1].append(place)
    return list(parts.values())


def _name(outcome: Any) -> Any:
    """What tells outcomes apart: their text, since nan is not itself and -0.0 is 0.0."""
    return (type(outcome), repr(outcome))


def _agree(one: Any, other: Any) -> bool:
    return bool(_name(one) == _name(other))


class _Sink:
    """Where ``_Read`` leaves what it saw; an object of its own, so that vmap looks through it."""

    values: list[Any]


class _Read(torch.autograd.Function):
    """Sees the numbers of every member: the rule of a function that vmap calls with all of them."""

    @staticmethod
    def forward(tensor: Tensor, sink: _Sink) -> Tensor:
        sink.values = [tensor.detach().tolist()]
        return tensor.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, tensor: Tensor, sink: _Sink) -> tuple[Tensor, None]:
        sink.values = tensor.detach().movedim(in_dims[0], 0).tolist()
        return tensor.new_empty(0), None


class _Ask(torch.autograd.Function):
    """Sees whether the members' tensors require a gradient."""

    @staticmethod
    def forward(tensor: Tensor, sink: _Sink) -> Tensor:
        sink.values = [tensor.requires_grad]
        return tensor.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, tensor: Tensor, sink: _Sink) -> tuple[Tensor, None]:
        sink.values = [tensor.requires_grad]
        return tensor.new_empty(0), None


class _Versions(torch.autograd.Function):
    """Sees how often the members' tensors were changed in place."""

    @staticmethod
    def forward(sink: _Sink, *tensors: Tensor) -> Tensor:
        sink.values = [version(tensor) for tensor in tensors]
        return tensors[0].new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, sink: _Sink, *tensors: Tensor) -> tuple[Tensor, None]:
        sink.values = [version(tensor) for tensor in tensors]
        return tensors[0].new_empty(0), None


def versions(tensors: Sequence[Tensor]) -> list[int | None]:
    """How often tensors of the enclosing vmap were changed in place, for all members at once."""
    sink = _Sink()
    if not tensors:
        return []
    _Versions.apply(sink, *tensors)  # type: ignore[no-untyped-call]
    return sink.values


def requires_grad(tensor: Tensor) -> bool:
    """Whether a tensor of the enclosing vmap requires a gradient outside of it."""
    sink = _Sink()
    _Ask.apply(tensor, sink)  # type: ignore[no-untyped-call]
    return bool(sink.values[0])


def per_member(tensor: Tensor) -> list[Any]:
    """The value of a tensor for every member of the enclosing vmap, as Python numbers.

    A tensor that is the same for all members gives one value.
    """
    sink = _Sink()
    _Read.apply(tensor.detach(), sink)  # type: ignore[no-untyped-call]
    return sink.values
