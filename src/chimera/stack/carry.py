"""Everything that members carry from one call to the next, copied and put back.

That is every stacked tensor (those that ``state_dict`` forgets, too), the attributes that calls
changed, and what the stack found out about how to run. Numbers, texts and containers of them are
followed, and come back as the same types; an object that no file can say is followed by its
identity, and one that was replaced cannot be carried.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from chimera.paths.shared import Links, shared
from chimera.paths.structure import written_attributes
from chimera.paths.walk import join
from chimera.stack.choices import choices, choose
from chimera.stack.contents import as_text
from chimera.stack.encoded import as_tree, from_tree
from chimera.stack.group import Group, twin
from chimera.stack.hidden import moving
from chimera.stack.own import link_written
from chimera.stack.stack import Stack

Where = tuple[int, str]
"""A place in a group's template: the module's index, and a name in it."""


INITIAL = type("Initial", (), {"__repr__": lambda _: "INITIAL"})()
"""Of an attribute, in what is put back: the value that the member had at the start."""


class Uncarriable(ValueError):
    """Members hold what cannot be written down; the message names the path and says why."""


@dataclass
class GroupState:
    """What the members of a group carry.

    Attributes:
        members: their ids, in the order of the rows.
        tensors: by name below the group, ``[members of the group, ...]``.
        new: tensors that calls made in places that had none: module index, kind, name, whether
            ``state_dict`` holds it, and its name in ``tensors``.
        attributes: attributes that calls changed and that are the same for all members; values
            are trees of ``as_tree``.
        own: attributes that differ between members, one such tree a member.
        plans: by the kind of call, how it runs.
    """

    members: list[int]
    tensors: dict[str, Tensor]
    new: list[tuple[int, str, str, bool, str]] = field(default_factory=list)
    attributes: list[tuple[int, str, Any]] = field(default_factory=list)
    own: list[tuple[int, str, list[Any]]] = field(default_factory=list)
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)


class Carried:
    """What the members of a stack carry, seen from how they were when this was made."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._first = [_attributes(group) for group in stack._groups]
        self._slots = [_places(group) for group in stack._groups]
        self._links = [_links(group) for group in stack._groups]
        self._hidden = [_hidden(group) for group in stack._groups]

    def take(self, parameters: bool = True) -> list[GroupState]:
        """A copy on the CPU, one for each group; without ``parameters`` of the rest alone.

        Raises:
            Uncarriable: an attribute changed to what no file can say.
        """
        plans = choices(self.stack)
        return [self._take(index, plans[index], parameters) for index in range(len(plans))]

    def put(self, states: list[GroupState]) -> None:
        """Let the members be as ``take`` found them; they are as they were at the start.

        Raises:
            ValueError: a tensor is missing or of another shape or dtype, or there are others.
        """
        for index, (group, state) in enumerate(zip(self.stack._groups, states, strict=True)):
            self._put(group, self._slots[index], state)
            link_written(group, self._links[index])
        choose(self.stack, [state.plans for state in states])

    def _take(self, index: int, plans: dict[str, dict[str, Any]], parameters: bool) -> GroupState:
        group = self.stack._groups[index]
        for slot, tensor in zip(group.slots, group.tensors(), strict=True):
            if tensor.layout != torch.strided:
                raise Uncarriable(
                    f"{slot.path}: a sparse tensor cannot be written down; keep it dense, and make "
                    "it sparse in forward by .to_sparse()"
                )
        held = zip(group.names(), group.tensors(), strict=True)
        state = GroupState(
            members=[self.stack.members[position] for position in group.positions],
            tensors={
                name: tensor.detach().to("cpu", copy=True).contiguous()
                for name, tensor in held
                if parameters or not isinstance(tensor, nn.Parameter)
            },
            plans=plans,
        )
        for (where, row), digest in _hidden(group).items():
            if self._hidden[index].get((where, row), digest) != digest:
                raise Uncarriable(
                    f"{_path(group, where)}: a call changed what this object holds, which cannot "
                    "be written down; make it a buffer or a number, draw by torch.rand and the like"
                )
        for where, values in group.own.items():
            state.own.append((*where, [_said(group, where, value) for value in values]))
        state.new = _made(group, self._slots[index])
        made = {(module, name) for module, _, name, _, _ in state.new}
        first, now = self._first[index], _attributes(group)
        for where, (text, value) in now.items():
            before = first.get(where)
            if where in made or where in group.own or (before and _same(before, (text, value))):
                continue
            state.attributes.append((*where, _said(group, where, value)))
        changed = {*group.own, *((module, name) for module, name, _ in state.attributes)}
        for one in _links(group):
            if one not in self._links[index] and not changed.isdisjoint(s[:2] for s in one):
                raise Uncarriable(
                    f"{_path(group, one[0][:2])}: a call let one object stand here and at "
                    f"{_path(group, one[1][:2])}, which cannot be written down"
                )
        gone = [where for where in first if where not in now]
        if gone:
            raise Uncarriable(f"{_path(group, gone[0])}: a call deleted this attribute")
        return state

    def _put(self, group: Group, known: set[tuple[int, str, str]], state: GroupState) -> None:
        for module, kind, name, persistent, stacked in state.new:
            if (module, kind, name) not in known:
                _make(group, (module, name), kind, persistent, state.tensors[stacked])
        for module, name, value in state.attributes:
            group.reading.modules[module][1].__dict__[name] = from_tree(value)
        for module, name, values in state.own:
            held = group.reading.modules[module][1].__dict__
            first = group.own.get((module, name), [held.get(name)] * len(group))
            group.own[module, name] = [
                start if value is INITIAL else from_tree(value)
                for value, start in zip(values, first, strict=True)
            ]
            held.setdefault(name, None)
        group.changed = True
        group.prepare()
        names = group.names()
        if set(names) != set(state.tensors):
            differ = sorted(set(names) ^ set(state.tensors))
            raise ValueError(f"the tensors {', '.join(differ[:5])} are on one side alone")
        with torch.no_grad():
            for index, (name, mine) in enumerate(zip(names, group.tensors(), strict=True)):
                new = state.tensors[name]
                alike = new.shape == mine.shape and new.dtype == mine.dtype
                if alike:
                    mine.copy_(new)
                elif isinstance(mine, nn.Parameter):
                    raise ValueError(
                        f"{name} is {new.dtype} {list(new.shape)}, expected {mine.dtype} "
                        f"{list(mine.shape)}"
                    )
                else:
                    group.set_tensor(index, new.to(mine.device, copy=True))


def _links(group: Group) -> Links:
    return shared([written_attributes(module) for _, module in group.reading.modules])


def _make(group: Group, where: Where, kind: str, persistent: bool, stacked: Tensor) -> None:
    """A place for a tensor that calls had made when the state was taken."""
    module = group.reading.modules[where[0]][1]
    mine = twin(stacked, [True])
    if kind == "buffer":
        module.register_buffer(where[1], mine, persistent=persistent)
    else:
        module.__dict__[where[1]] = mine
    group.read_again({id(mine): stacked.to(group.device, copy=True)})


def _made(group: Group, known: set[tuple[int, str, str]]) -> list[tuple[int, str, str, bool, str]]:
    """The tensors that stand where none stood, as ``GroupState.new`` has them."""
    found = []
    for slot, stacked in zip(group.slots, group.names(), strict=True):
        places = [(place.module, place.kind, place.name) for place in slot.places]
        fresh = [place for place in places if place not in known]
        for module, kind, name in fresh[:1]:
            held = group.reading.modules[module][1].__dict__.get(name)
            nested = kind == "attribute" and not isinstance(held, Tensor)
            if nested or kind == "parameter" or len(places) > 1:
                raise Uncarriable(
                    f"{slot.path}: a call put a tensor here, in a container or beside another "
                    "place of it, which cannot be written down; make it a buffer"
                )
            found.append((module, kind, name, slot.persistent, stacked))
    return found


def _places(group: Group) -> set[tuple[int, str, str]]:
    """Where the stacked tensors stand: module index, kind and name."""
    return {(place.module, place.kind, place.name) for slot in group.slots for place in slot.places}


def _attributes(group: Group) -> dict[Where, tuple[str | None, Any]]:
    """The template's attributes: as text, where one says all of them, and themselves.

    A container whose tensors are slots is described by its other leaves and its nesting.
    """
    found: dict[Where, tuple[str | None, Any]] = {}
    for index, (_, module) in enumerate(group.reading.modules):
        for name, value in written_attributes(module).items():
            found[index, name] = (_text(value), value)
    return found


def _hidden(group: Group) -> dict[tuple[Where, int], str]:
    """What objects hold, by place and row; a row of -1 is of the template, for all members."""
    held = {
        (index, name): {-1: value}
        for index, (_, module) in enumerate(group.reading.modules)
        for name, value in written_attributes(module).items()
    }
    for where, values in group.own.items():
        held[where] = dict(enumerate(values))
    return {
        (where, row): digest
        for where, rows in held.items()
        for row, value in rows.items()
        if (digest := moving(value)) is not None
    }


def _same(before: tuple[str | None, Any], now: tuple[str | None, Any]) -> bool:
    return before[0] == now[0] if before[0] is not None else before[1] is now[1]


def _text(value: Any) -> str | None:
    """What tells whether a value changed; None where only its identity does."""
    text = as_text(value)
    if text is not None:
        return text
    try:
        return json.dumps(as_tree(value))
    except ValueError:
        return None


def _said(group: Group, where: Where, value: Any) -> Any:
    """A value as a tree, independent of the one that calls may change."""
    try:
        return as_tree(value)
    except ValueError as error:
        raise Uncarriable(
            f"{_path(group, where)}: a call changed this attribute to a {type(value).__name__}, "
            "which cannot be written down; make it a buffer, or of numbers and texts"
        ) from error


def _path(group: Group, where: Where) -> str:
    return join(group.reading.modules[where[0]][0], where[1])
