"""The tensors of one module, exchanged for others while it runs, and put back.

``skeleton`` copies a module without its numbers; ``Exchange`` lets other tensors stand in every
slot of such a copy for the time of a call, and tells what the call wrote into its places.
The dictionaries ``_parameters``, ``_buffers`` and ``_modules`` of ``nn.Module`` are reached here,
in ``structure`` and in ``walk`` alone.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from chimera.paths.nest import LEAF, Shape, flatten
from chimera.paths.structure import Place, Reading, own_attributes, read


def skeleton(module: nn.Module) -> nn.Module:
    """A deep copy of ``module`` in which every tensor of its own is on the meta device.

    No numbers are copied. Ties are kept.
    """
    return _copied(module, [_on_meta(slot.tensor) for slot in read(module).slots])


def with_tensors(module: nn.Module, tensors: Sequence[Tensor]) -> nn.Module:
    """A deep copy of ``module`` that holds ``tensors``, one a slot, in the order of ``read``."""
    return _copied(module, tensors)


def _copied(module: nn.Module, tensors: Sequence[Tensor]) -> nn.Module:
    slots = read(module).slots
    memo: dict[int, Any] = {
        id(slot.tensor): tensor for slot, tensor in zip(slots, tensors, strict=True)
    }
    # deepcopy asks the memo for the ids of what it copies, so the originals must stay alive.
    return copy.deepcopy(module, memo)


def _on_meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


class Exchange:
    """The places of one module's tensors, ready to be filled.

    Args:
        reading: what ``read`` found in the module.
        forwards: for some modules, by index, a ``forward(module, ...)`` to run instead of theirs.
    """

    def __init__(
        self, reading: Reading, forwards: Mapping[int, Callable[..., Any]] | None = None
    ) -> None:
        self._modules = [module for _, module in reading.modules]
        self._forwards = {
            index: MethodType(forward, self._modules[index])
            for index, forward in (forwards or {}).items()
        }
        self._homes: list[tuple[dict[str, Any], str, int]] = []
        self._attributes: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for index, slot in enumerate(reading.slots):
            for place in slot.places:
                if place.kind == "attribute":
                    leaves = self._attributes.setdefault((place.module, place.name), [])
                    leaves.append((place.leaf, index))
                else:
                    self._homes.append((self._home(place), place.name, index))
        self._own = [slot.tensor for slot in reading.slots]

    def _home(self, place: Place) -> dict[str, Any]:
        module = self._modules[place.module]
        kept: dict[str, Any] = module._parameters if place.kind == "parameter" else module._buffers
        return kept

    def put(self, tensors: Sequence[Any]) -> None:
        """Let ``tensors``, one a slot, stand in every place. ``take_back`` must follow."""
        self._fill(tensors)
        self._placed = tensors
        self._before = [
            {name: (value, *flatten(value)) for name, value in own_attributes(module).items()}
            for module in self._modules
        ]
        for index, forward in self._forwards.items():
            self._modules[index].__dict__["forward"] = forward

    def _fill(self, tensors: Sequence[Any]) -> None:
        for home, name, index in self._homes:
            home[name] = tensors[index]
        for (module, name), places in self._attributes.items():
            attributes = self._modules[module].__dict__
            leaves, shape = flatten(attributes[name])
            for leaf, slot in places:
                leaves[leaf] = tensors[slot]
            attributes[name] = shape.rebuild(leaves)

    def written(self) -> Written:
        """What the call left in other places than it found it."""
        slots = {
            index: home.get(name)
            for home, name, index in self._homes
            if home.get(name) is not self._placed[index]
        }
        attributes = {
            (index, name): value
            for index, (module, before) in enumerate(zip(self._modules, self._before, strict=True))
            for name, value in own_attributes(module).items()
            if not (self._forwards and name == "forward" and index in self._forwards)
            and (name not in before or _changed(before[name], value))
        }
        return Written(slots, attributes)

    def take_back(self) -> None:
        """Put the module's own tensors and attributes back as they were before ``put``."""
        for index in self._forwards:
            self._modules[index].__dict__.pop("forward", None)
        for module, before in zip(self._modules, self._before, strict=True):
            self._undo(module, before)
        self._fill_back()

    @staticmethod
    def _undo(module: nn.Module, before: dict[str, Any]) -> None:
        for name in before.keys() - module.__dict__.keys():
            module.__dict__[name] = before[name][0]
        for name, value in own_attributes(module).items():
            if name not in before:
                del module.__dict__[name]
            elif _changed(before[name], value):
                _, leaves, shape = before[name]
                module.__dict__[name] = shape.rebuild(leaves)

    def _fill_back(self) -> None:
        for home, name, index in self._homes:
            home[name] = self._own[index]
        for (module, name), places in self._attributes.items():
            attributes = self._modules[module].__dict__
            _, leaves, shape = self._before[module][name]
            leaves = list(leaves)
            for leaf, slot in places:
                leaves[leaf] = self._own[slot]
            attributes[name] = shape.rebuild(leaves)


@dataclass(slots=True)
class Written:
    """What a call wrote: new tensors by slot, new values by (module index, attribute name)."""

    slots: dict[int, Any]
    attributes: dict[tuple[int, str], Any]

    def __bool__(self) -> bool:
        return bool(self.slots or self.attributes)


def _changed(before: tuple[Any, list[Any], Shape], value: Any) -> bool:
    old, leaves, shape = before
    if shape is LEAF:
        return value is not old
    now, now_shape = flatten(value)
    return now_shape != shape or not all(map(_is_same, leaves, now))


def _is_same(a: Any, b: Any) -> bool:
    """Weak references hold nothing, so one is as good as another."""
    return a is b or (isinstance(a, weakref.ref) and isinstance(b, weakref.ref))
