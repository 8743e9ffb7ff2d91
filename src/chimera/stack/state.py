"""What calls write into their modules, kept for every member of a group.

A tensor that a call assigned to a buffer or an attribute becomes the stacked one. A value that is
the same for all members stands on the template. Values that differ otherwise are kept one a
member.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.paths.nest import LEAF, flatten
from chimera.paths.slots import GONE
from chimera.paths.walk import join
from chimera.stack.batched import Ran
from chimera.stack.each import index_of
from chimera.stack.group import Group, twin
from chimera.stack.outputs import Outputs, merge
from chimera.stack.own import link_written


def keep(group: Group, runs: Sequence[Ran]) -> None:
    """Keep what ``runs``, which cover the members of ``group``, wrote.

    Raises:
        TypeError: a call put a new parameter in the place of one.
        ValueError: members assigned tensors of different shapes to one buffer, or some of them
            registered one and others did not.
    """
    with torch.no_grad():
        for ran in runs:
            for index, rows in ran.parameters.items():
                stacked = group.tensors()[index]
                stacked[index_of(ran.output.positions, stacked.device)] = rows.detach()
    for index in dict.fromkeys(index for ran in runs for index in ran.slots):
        _keep_slot(group, index, runs)
    for where in dict.fromkeys(where for ran in runs for where in ran.buffers):
        _keep_buffer(group, where, runs)
    wheres = dict.fromkeys(where for ran in runs for where in ran.attributes)
    group.changed = any(
        part.shape is not LEAF or not all(part.stacked)
        for ran in runs
        for part in ran.attributes.values()
    )
    for where in wheres:
        if where in group.own:
            _keep_own(group.own[where], [ran.attributes.get(where) for ran in runs])
        else:
            _keep_attribute(group, where, [_of(group, ran, where) for ran in runs])
    links = {ran.links for ran in runs}
    if len(links) > 1:
        raise TypeError(
            "forward keeps one object under several names in some members and not in others; "
            "let every member keep it under one name"
        )
    link_written(group, *links)
    if not group.own.keys().isdisjoint(wheres):
        group.prepare()


def _keep_slot(group: Group, index: int, runs: Sequence[Ran]) -> None:
    slot, stacked = group.slots[index], group.tensors()[index]
    new = [ran.slots.get(index) for ran in runs]
    if isinstance(stacked, nn.Parameter):
        raise TypeError(
            f"{slot.path}: forward put another tensor in the place of this parameter; "
            "change it in place, as in self.weight.copy_(value) under torch.no_grad()"
        )
    if len(runs) == 1 and new[0] is not None and len(runs[0].output.positions) == len(group):
        group.set_tensor(index, new[0])
        return
    if all(t is None or _fits(t, stacked) for t in new):
        with torch.no_grad():
            for ran, tensor in zip(runs, new, strict=True):
                if tensor is not None:
                    stacked[index_of(ran.output.positions, stacked.device)] = tensor.detach()
        return
    rows: list[Tensor] = list(stacked.detach().unbind(0))
    for ran, tensor in zip(runs, new, strict=True):
        if tensor is not None:
            for place, row in zip(ran.output.positions, tensor.unbind(0), strict=True):
                rows[place] = row
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"{slot.path}: members assigned tensors of different shapes, {sorted(shapes)}; "
            "a stack keeps one shape for a buffer"
        )
    group.set_tensor(index, torch.stack(rows))


def _keep_buffer(group: Group, where: tuple[int, str], runs: Sequence[Ran]) -> None:
    index, name = where
    path, module = group.reading.modules[index]
    found = [ran.buffers[where] for ran in runs if where in ran.buffers]
    whole = merge([part for part, _ in found]) if len(found) == len(runs) else ()
    if whole is not None and not isinstance(whole, Tensor):
        raise ValueError(
            f"{join(path, name)}: members registered buffers of different shapes, or some of them "
            "none; a stack keeps one for all members"
        )
    lasting = all(flag for _, flag in found)
    if whole is None:
        module.register_buffer(name, None, persistent=lasting)
        group.read_again({})
        return
    mine = twin(whole, [True])
    module.register_buffer(name, mine, persistent=lasting)
    group.read_again({id(mine): whole})


def _fits(tensor: Tensor, stacked: Tensor) -> bool:
    same = tensor.shape[1:] == stacked.shape[1:] and tensor.dtype == stacked.dtype
    return same and not tensor.requires_grad


def _of(group: Group, ran: Ran, where: tuple[int, str]) -> Outputs:
    """What the members of a run have as an attribute: what it wrote, else what stood there."""
    if where in ran.attributes:
        return ran.attributes[where]
    places = ran.output.positions
    index, name = where
    module = group.reading.modules[index][1]
    leaves, shape = flatten(module.__dict__.get(name, GONE), objects=True)
    rows = torch.tensor(places, device=group.device)
    by_twin = dict(zip((id(s.tensor) for s in group.slots), group.tensors(), strict=True))
    stacked = [isinstance(leaf, Tensor) for leaf in leaves]
    leaves = [
        by_twin[id(leaf)].index_select(0, rows) if isinstance(leaf, Tensor) else leaf
        for leaf in leaves
    ]
    return Outputs(places, leaves, shape, stacked)


def _keep_own(values: list[Any], parts: Sequence[Outputs | None]) -> None:
    for part in parts:
        if part is not None:
            for i, place in enumerate(part.positions):
                values[place] = part.of_member(i)


def _keep_attribute(group: Group, where: tuple[int, str], parts: list[Outputs]) -> None:
    index, name = where
    module = group.reading.modules[index][1]
    whole = _together(parts)
    if whole is None:
        values = [(p, part.of_member(i)) for part in parts for i, p in enumerate(part.positions)]
        group.own[where] = [value for _, value in sorted(values, key=lambda pair: pair[0])]
        module.__dict__.setdefault(name, None)
        return
    if not any(whole.stacked):
        held = flatten(module.__dict__.get(name), objects=True)[0]
        value = whole.shape.rebuild(whole.leaves)
        if value is GONE:
            module.__dict__.pop(name, None)
        else:
            module.__dict__[name] = value
        if any(isinstance(leaf, Tensor) for leaf in held):
            group.read_again({})
        return
    _keep_tensors(group, where, whole)


def _together(parts: list[Outputs]) -> Outputs | None:
    """One value for all members, tensors stacked; None where their values do not go together."""
    first = parts[0]
    if any(part.shape != first.shape or part.stacked != first.stacked for part in parts):
        return None
    merged, _ = flatten(merge(parts), objects=True)
    if len(merged) != len(first.leaves):
        return None
    for value, stacked, was in zip(merged, first.stacked, first.leaves, strict=True):
        if stacked != isinstance(value, Tensor) or (not stacked and type(value) is not type(was)):
            return None
    return Outputs(
        sorted(p for part in parts for p in part.positions), merged, first.shape, first.stacked
    )


def _keep_tensors(group: Group, where: tuple[int, str], whole: Outputs) -> None:
    index, name = where
    module = group.reading.modules[index][1]
    known = {id(slot.tensor): i for i, slot in enumerate(group.slots) if len(slot.places) == 1}
    now, shape = flatten(module.__dict__.get(name), objects=True)
    same = shape == whole.shape and all(
        (id(old) in known and old.shape == new.shape[1:] and old.dtype == new.dtype)
        if stacked
        else old is new
        for old, new, stacked in zip(now, whole.leaves, whole.stacked, strict=True)
    )
    if same:
        for old, new, stacked in zip(now, whole.leaves, whole.stacked, strict=True):
            if stacked:
                group.set_tensor(known[id(old)], new)
        return
    value = twin(whole.shape.rebuild(whole.leaves), whole.stacked)
    module.__dict__[name] = value
    twins, _ = flatten(value, objects=True)
    group.read_again(
        {
            id(leaf): stacked
            for leaf, stacked, flag in zip(twins, whole.leaves, whole.stacked, strict=True)
            if flag
        }
    )
