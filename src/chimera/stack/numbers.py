"""Numeric settings that differ between the members of a group.

``alike`` reads a structure without the values of such settings, so that members that differ in
nothing else form one group; ``Numbers`` lets each member's own value stand in the template while
a call runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from chimera.paths.structure import Fact, Reading
from chimera.paths.walk import join
from chimera.stack.rules.numeric import PerMember, numeric_rule_of
from chimera.stack.rules.table import Forward

Where = tuple[int, str]
"""A module by its index, and the name of an attribute of it."""


@dataclass(frozen=True, slots=True)
class _Number:
    """Stands for the value of a numeric setting; those of one kind are alike."""

    kind: str
    value: float = field(compare=False)

    def __repr__(self) -> str:
        return repr(self.value)


def alike(reading: Reading) -> Reading:
    """``reading`` with a stand-in for the value of every numeric setting."""
    kinds = {
        join(reading.modules[index][0], name): kind
        for (index, name), kind in _settings(reading).items()
    }
    facts = [
        fact._replace(value=_Number(kinds[fact.path], fact.value)) if _stands(fact, kinds) else fact
        for fact in reading.facts
    ]
    return replace(reading, facts=facts)


def _stands(fact: Fact, kinds: Mapping[str, str]) -> bool:
    return fact.name == "value" and fact.path in kinds


def _settings(reading: Reading) -> dict[Where, str]:
    """The kind of every numeric setting of a structure."""
    found = {}
    for index, (_, module) in enumerate(reading.modules):
        rule = numeric_rule_of(module)
        if rule is None or "forward" in module.__dict__:
            continue
        for name, kind_of in rule.kinds.items():
            value = module.__dict__.get(name)
            if is_number(value):
                found[index, name] = kind_of(value)
    return found


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number that is no truth value."""
    return type(value) in (int, float) and math.isfinite(value)


def different(readings: Sequence[Reading]) -> dict[Where, list[Any]]:
    """The numeric settings in which members of one group differ, one value a member."""
    found = {}
    for index, name in _settings(readings[0]):
        values = [reading.modules[index][1].__dict__[name] for reading in readings]
        if any(value != values[0] or type(value) is not type(values[0]) for value in values):
            found[index, name] = values
    return found


class Numbers:
    """The numeric settings of a group that differ, as far as its rules can run them as one.

    Args:
        reading: of the template.
        own: attributes that differ between members, one value a member.

    Attributes:
        wheres: the settings.
        forwards: the numeric rules that run their modules, by index.
        values: of each setting, one a member.
    """

    def __init__(self, reading: Reading, own: Mapping[Where, Sequence[Any]]) -> None:
        self._modules = [module for _, module in reading.modules]
        self._paths = [path for path, _ in reading.modules]
        self.wheres: list[Where] = []
        self._values: list[Sequence[float]] = []
        self.forwards: dict[int, Forward] = {}
        for (index, name), values in own.items():
            rule = numeric_rule_of(self._modules[index])
            kind_of = rule.kinds.get(name) if rule else None
            if rule is None or kind_of is None or not all(map(is_number, values)):
                continue
            if len(set(map(kind_of, values))) > 1 or "forward" in self._modules[index].__dict__:
                continue
            self.wheres.append((index, name))
            self._values.append(values)
            self.forwards[index] = rule.forward
        self._kept: dict[torch.device, list[Tensor]] = {}
        self.values = tuple(map(tuple, self._values))

    def names(self, index: int) -> list[str]:
        """The settings of a module, by its index, that differ."""
        return [name for where, name in self.wheres if where == index]

    def tensors(self, device: torch.device) -> list[Tensor]:
        """The settings ``[members]``, float64 where the device has it."""
        if device not in self._kept:
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._kept[device] = [
                torch.tensor(values, dtype=dtype, device=device) for values in self._values
            ]
        return self._kept[device]

    @contextmanager
    def standing(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Let ``tensors``, a member's numbers inside vmap, stand in the template.

        Raises:
            OwnNumber: the block used one outside of the layer that it is of, caught or not.
        """
        saved = [self._modules[index].__dict__[name] for index, name in self.wheres]
        placed = []
        for (index, name), tensor, values in zip(self.wheres, tensors, self._values, strict=True):
            placed.append(PerMember(join(self._paths[index], name), tensor, values))
            self._modules[index].__dict__[name] = placed[-1]
        try:
            yield
        finally:
            for (index, name), value in zip(self.wheres, saved, strict=True):
                self._modules[index].__dict__[name] = value
            for each in placed:
                if each.refused is not None:
                    raise each.refused


def settings_of(module: nn.Module) -> tuple[str, ...]:
    """The names of the numeric settings of a module."""
    rule = numeric_rule_of(module)
    return () if rule is None else tuple(rule.kinds)
