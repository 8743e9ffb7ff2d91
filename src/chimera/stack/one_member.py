"""One member of a group as a plain module: copied out of it, and written back into it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from chimera.paths.slots import GONE, with_tensors
from chimera.paths.structure import Slot, read
from chimera.stack.group import Group
from chimera.stack.numbers import settings_of
from chimera.stack.own import as_in, transferred
from chimera.stack.tree import is_trained


def place_of(groups: Sequence[Group], size: int, index: Any) -> tuple[Group, int]:
    """The group of a member of a stack of ``size``, and its place in it.

    Raises:
        TypeError: ``index`` is no int.
        IndexError: there is no such member.
    """
    try:
        wanted = operator.index(index)
    except TypeError:
        raise TypeError(
            f"a member is named by its index, an int; got {index!r:.60} "
            f"of type {type(index).__name__}"
        ) from None
    if not -size <= wanted < size:
        raise IndexError(f"member {wanted} of a stack of {size}: pass {-size} to {size - 1}")
    wanted %= size
    for group in groups:
        if wanted in group.positions:
            return group, group.positions.index(wanted)
    raise AssertionError("every member belongs to a group")


def copied_out(group: Group, place: int) -> nn.Module:
    """The ``place``-th member as a plain module, an independent copy."""
    tensors = []
    for slot, stacked in zip(group.slots, group.tensors(), strict=True):
        tensor = stacked.detach()[place].clone()
        if isinstance(slot.tensor, nn.Parameter):
            free = slot.tensor.requires_grad
            if is_trained(slot):
                free = group.still.moves(slot, stacked, place)
            tensor = nn.Parameter(tensor, requires_grad=free)
        tensors.append(tensor)
    module = with_tensors(group.template, tensors)
    if not group.own:
        return module
    modules = [module for _, module in read(module).modules]
    memo = as_in([module for _, module in group.reading.modules], modules)
    for (index, name), values in group.own.items():
        if values[place] is GONE:
            del modules[index].__dict__[name]
        else:
            modules[index].__dict__[name] = transferred(values[place], memo)
    return module


def write_back(group: Group, place: int, module: nn.Module) -> None:
    """Copy a module's tensors and differing attributes into the ``place``-th member.

    Its structure is that of the group; the caller has made sure.
    """
    reading = read(module)
    common = [slot for slot in reading.slots if not _is_own(group, slot)]
    with torch.no_grad():
        for slot, stacked in zip(common, group.tensors(), strict=True):
            stacked[place].copy_(slot.tensor)
    for theirs, slot, stacked in zip(common, group.slots, group.tensors(), strict=True):
        if is_trained(slot):
            frozen = [not group.still.moves(slot, stacked, i) for i in range(len(group))]
            frozen[place] = not theirs.tensor.requires_grad
            stacked.requires_grad_(not all(frozen))
            group.still.note(slot, frozen)
    source = [module for _, module in reading.modules]
    mine = [module for _, module in group.reading.modules]
    for index, module in enumerate(mine):
        for name in settings_of(module):
            value = module.__dict__.get(name)
            if (index, name) not in group.own and value != source[index].__dict__.get(name):
                group.own[index, name] = [value] * len(group)
    memo = as_in(source, mine)
    for (index, name), values in group.own.items():
        values[place] = transferred(source[index].__dict__.get(name, GONE), memo)
    group.prepare()


def _is_own(group: Group, slot: Slot) -> bool:
    """Whether a member's tensor stands only in attributes that each member has of its own."""
    return all(
        place.kind == "attribute" and (place.module, place.name) in group.own
        for place in slot.places
    )
