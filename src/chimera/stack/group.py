"""The members of one structure: one skeleton module, and every tensor of theirs stacked.

The skeleton holds what the members have in common; its own tensors are on the meta device, so
that nothing of one member can ever be used for another. The stacked tensors stand in a tree of
containers whose names are the members' paths.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.paths.nest import flatten
from chimera.paths.shared import Links, link
from chimera.paths.slots import GONE, Exchange, skeleton, with_tensors
from chimera.paths.structure import Reading, Slot, read
from chimera.paths.walk import join
from chimera.stack.absent import ALL, in_loops, reached_by
from chimera.stack.numbers import Numbers, different, settings_of
from chimera.stack.rules import forwards_of


class Tree(nn.Module):
    """A container: stacked tensors and further containers, by the names of the members' paths."""


class Group:
    """Members of one structure.

    Args:
        modules: the members; they stay as they are.
        positions: their places in the stack.

    Attributes:
        partial: whether gradients may leave rows out, those of members that did not use a
            parameter.
    """

    partial = False

    def __init__(self, modules: Sequence[nn.Module], positions: Sequence[int]) -> None:
        self.positions = list(positions)
        self.template = skeleton(modules[0])
        self.tree = Tree()
        self.reading = Reading()
        self._homes: list[tuple[nn.Module, str]] = []
        self.adopted: list[str] = []
        readings = [read(module) for module in modules]
        # Attributes that differ between members, numeric settings and what a call wrote: one
        # value a member.
        self.own: dict[tuple[int, str], list[Any]] = different(readings)
        self.plans: dict[Any, Any] = {}
        # By path which members hold a parameter frozen, where some do and some do not: a tensor
        # that is never changed in place.
        self._frozen: dict[str, Tensor] = {}
        twins = read(self.template).slots
        self.read_again(
            {
                id(twin.tensor): _stacked([reading.slots[i] for reading in readings])
                for i, twin in enumerate(twins)
            }
        )
        self.partial = bool(self._in_loops)
        for i, slot in enumerate(self.slots):
            self._note_frozen(slot, [reading.slots[i].tensor for reading in readings])
            if slot.kind == "attribute" or slot.hidden:
                self.adopted.append(slot.path)

    def __len__(self) -> int:
        return len(self.positions)

    def _note_frozen(self, slot: Slot, tensors: Sequence[Tensor]) -> None:
        if _is_trained(slot):
            frozen = [not tensor.requires_grad for tensor in tensors]
            if any(frozen) and not all(frozen):
                self._frozen[slot.path] = torch.tensor(frozen)

    def read_again(self, new: dict[int, Tensor]) -> None:
        """Take note of the template's tensors; ``new`` gives the stacked ones by id of a twin."""
        known = {id(slot.tensor): home for slot, home in zip(self.slots, self._homes, strict=True)}
        self.reading = read(self.template)
        present = {id(slot.tensor) for slot in self.slots}
        for twin_id, (container, name) in known.items():
            if twin_id not in present:
                delattr(container, name)
        homes = [
            known.get(id(slot.tensor)) or self._register(slot, new[id(slot.tensor)])
            for slot in self.slots
        ]
        self._homes = homes
        self.prepare()

    def prepare(self) -> None:
        """Take note of the template and of attributes that differ, before the next call."""
        self.numbers = Numbers(self.reading, self.own)
        self.trained = [_is_trained(slot) for slot in self.slots]
        self.reasons: list[str | None] = []
        self._in_loops = in_loops(self.reading)
        self._casting: Exchange | None = None
        self.plain = Exchange(self.reading)
        self.unruled = Exchange(self.reading, self.numbers.forwards)
        self.ruled = Exchange(self.reading, forwards_of(self.reading) | self.numbers.forwards)

    @property
    def casting(self) -> Exchange:
        """As ``ruled``, for calls under autocast."""
        if self._casting is None:
            forwards = forwards_of(self.reading, casts=True) | self.numbers.forwards
            self._casting = Exchange(self.reading, forwards)
        return self._casting

    def __getstate__(self) -> dict[str, Any]:
        # What is read again: facts hold code, which cannot be pickled.
        again = (
            "plain",
            "unruled",
            "ruled",
            "reading",
            "numbers",
            "_in_loops",
            "_casting",
            "trained",
            "reasons",
        )
        return {k: v for k, v in self.__dict__.items() if k not in again}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.reading = read(self.template)
        self.prepare()

    @property
    def device(self) -> torch.device:
        """Where the stacked tensors are; the CPU where there are none."""
        for container, name in self._homes:
            found: torch.device = getattr(container, name).device
            return found
        return torch.device("cpu")

    @property
    def slots(self) -> list[Slot]:
        """The template's tensors, in order."""
        return self.reading.slots

    def _register(self, slot: Slot, stacked: Tensor) -> tuple[nn.Module, str]:
        *above, name = _pieces(slot.path)
        container: nn.Module = self.tree
        for piece in above:
            if piece not in container._modules:
                container.add_module(piece, Tree())
            container = container.get_submodule(piece)
        while hasattr(container, name):  # a name in brackets loses its dots, and may meet another
            name += "_"
        if _is_trained(slot):
            container.register_parameter(name, _as_parameter(stacked))
        else:
            container.register_buffer(name, stacked, persistent=slot.persistent)
        return container, name

    def names(self) -> list[str]:
        """The dotted name below the group of every slot's stacked tensor."""
        found = {id(tensor): name for name, tensor in self.tree.named_parameters()}
        found |= {id(tensor): name for name, tensor in self.tree.named_buffers()}
        return [found[id(tensor)] for tensor in self.tensors()]

    def tensors(self) -> list[Tensor]:
        """The stacked tensors ``[members, ...]``, one a slot."""
        return [getattr(container, name) for container, name in self._homes]

    def set_tensor(self, index: int, tensor: Tensor) -> None:
        """Let ``tensor`` be the stacked one of a slot that is no parameter."""
        container, name = self._homes[index]
        setattr(container, name, tensor)

    def frozen(self, index: int) -> Tensor | None:
        """Which members hold the parameter of a slot frozen: ``[members]`` bool, None for none."""
        rows = self._frozen.get(self.slots[index].path)
        if rows is None:
            container, name = self._homes[index]
            tensor = getattr(container, name)
            return None if tensor.requires_grad else torch.ones(len(self), dtype=torch.bool)
        return rows

    def _moving(self, slot: Slot, stacked: Tensor) -> Tensor:
        """Which members do not hold a parameter frozen ``[members]``."""
        rows = self._frozen.get(slot.path)
        if rows is None or not stacked.requires_grad:
            return torch.full((len(self),), stacked.requires_grad)
        return ~rows

    def unfreeze(self) -> None:
        """Let no member hold a parameter frozen that others do not."""
        self._frozen.clear()

    @property
    def constants(self) -> tuple[Any, ...]:
        """What a recorded call holds for good: numeric settings, and whose rows are frozen."""
        frozen = tuple((path, tuple(rows.tolist())) for path, rows in self._frozen.items())
        return (*self.numbers.values, frozen)

    def running(
        self, tensors: Sequence[Tensor] | None = None, span: range | None = None
    ) -> list[Tensor]:
        """The stacked tensors as a call uses them: no gradient reaches a frozen member's row.

        Args:
            tensors: to stand for the group's own, one a slot.
            span: the members that they are of; None for all.
        """
        tensors = self.tensors() if tensors is None else list(tensors)
        if self._frozen:
            for index, slot in enumerate(self.slots):
                rows = self._frozen.get(slot.path)
                tensor = tensors[index]
                if rows is not None and tensor.requires_grad:
                    rows = rows if span is None else rows[span.start : span.stop]
                    mask = rows.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
                    tensors[index] = torch.where(mask, tensor.detach(), tensor)
        return tensors

    def reached(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of ``running`` for a run of all members, where gradients may leave rows out.

        The rule of ``While`` leaves rows out by itself.
        """
        return [
            reached_by(tensor, ALL) if tensor.requires_grad and i not in self._in_loops else tensor
            for i, tensor in enumerate(tensors)
        ]

    def member(self, place: int) -> nn.Module:
        """The ``place``-th member as a plain module, an independent copy."""
        tensors = []
        for slot, stacked in zip(self.slots, self.tensors(), strict=True):
            tensor = stacked.detach()[place].clone()
            if isinstance(slot.tensor, nn.Parameter):
                rows = self._frozen.get(slot.path)
                free = stacked.requires_grad and (rows is None or not rows[place])
                if not _is_trained(slot):
                    free = slot.tensor.requires_grad
                tensor = nn.Parameter(tensor, requires_grad=free)
            tensors.append(tensor)
        module = with_tensors(self.template, tensors)
        modules = [module for _, module in read(module).modules] if self.own else []
        mine = [module for _, module in self.reading.modules]
        memo = _as_in(mine, modules) if self.own else {}
        for (index, name), values in self.own.items():
            if values[place] is GONE:
                del modules[index].__dict__[name]
            else:
                modules[index].__dict__[name] = _transferred(values[place], memo)
        return module

    def own_of(self, place: int) -> list[dict[str, Any]]:
        """By module, the attributes that the ``place``-th member alone has."""
        found: list[dict[str, Any]] = [{} for _ in self.reading.modules]
        for (index, name), values in self.own.items():
            found[index][name] = values[place]
        return found

    def link(self, links: Links) -> None:
        """Let containers that a call wrote stand in several places, as they did in the call.

        Raises:
            TypeError: one stands beside values that differ between members, and beside tensors.
        """
        for one in links:
            wheres = {stand[:2] for stand in one}
            if wheres.isdisjoint(self.own):
                link([module.__dict__ for _, module in self.reading.modules], (one,))
            else:
                self._let_differ(wheres - self.own.keys())
                for place in range(len(self)):
                    held = self.own_of(place)
                    link(held, (one,))
                    for index, name in wheres:
                        self.own[index, name][place] = held[index][name]
        if links:
            self.read_again({})

    def _let_differ(self, wheres: set[tuple[int, str]]) -> None:
        """Give each member a value of its own of attributes that are the same for all."""
        held = {(place.module, place.name) for slot in self.slots for place in slot.places}
        for index, name in sorted(wheres):
            path, module = self.reading.modules[index]
            if (index, name) in held:
                raise TypeError(
                    f"{join(path, name)}: forward wrote one object under this name, where it holds "
                    "tensors, and under another, where it holds what differs between members; let "
                    "the module keep it under one name"
                )
            self.own[index, name] = [
                _transferred(module.__dict__[name], {id(m): m for _, m in self.reading.modules})
                for _ in range(len(self))
            ]

    def _is_own(self, slot: Slot) -> bool:
        """Whether a member's tensor stands only in attributes that each member has of its own."""
        return all(
            place.kind == "attribute" and (place.module, place.name) in self.own
            for place in slot.places
        )

    def write(self, place: int, module: nn.Module) -> None:
        """Copy a module's tensors and differing attributes into the ``place``-th member.

        Its structure is that of the group; the caller has made sure.
        """
        reading = read(module)
        common = [slot for slot in reading.slots if not self._is_own(slot)]
        with torch.no_grad():
            for slot, stacked in zip(common, self.tensors(), strict=True):
                stacked[place].copy_(slot.tensor)
        for index, (slot, stacked) in enumerate(zip(self.slots, self.tensors(), strict=True)):
            if not _is_trained(slot):
                continue
            rows = (~self._moving(slot, stacked)).tolist()
            rows[place] = not common[index].tensor.requires_grad
            stacked.requires_grad_(not all(rows))
            self._frozen.pop(slot.path, None)
            if any(rows) and not all(rows):
                self._frozen[slot.path] = torch.tensor(rows)
        theirs = [module for _, module in reading.modules]
        mine = [module for _, module in self.reading.modules]
        for index, module in enumerate(mine):
            for name in settings_of(module):
                value = module.__dict__.get(name)
                if (index, name) not in self.own and value != theirs[index].__dict__.get(name):
                    self.own[index, name] = [value] * len(self)
        memo = _as_in(theirs, mine)
        for (index, name), values in self.own.items():
            value = theirs[index].__dict__.get(name, GONE)
            values[place] = _transferred(value, memo)
        self.prepare()


def _as_in(source: list[nn.Module], target: list[nn.Module]) -> dict[int, Any]:
    """What lets the modules of one tree become the other's in ``_transferred``."""
    return {id(old): new for old, new in zip(source, target, strict=True)}


def _transferred(value: Any, memo: dict[int, Any]) -> Any:
    """An independent copy of an attribute's value; ``memo`` knows what was copied already."""
    for leaf in flatten(value, objects=True)[0]:
        if isinstance(leaf, Tensor):
            memo[id(leaf)] = leaf.detach().clone()
    return copy.deepcopy(value, memo)


def _is_trained(slot: Slot) -> bool:
    return slot.kind == "parameter" and not slot.hidden


def _stacked(slots: Sequence[Slot]) -> Tensor:
    tensors = [slot.tensor.detach() for slot in slots]
    stacked = torch.stack(tensors)
    if _is_trained(slots[0]):
        free = any(slot.tensor.requires_grad for slot in slots)
        return nn.Parameter(stacked, requires_grad=free)
    return stacked


def _as_parameter(stacked: Tensor) -> nn.Parameter:
    if isinstance(stacked, nn.Parameter):
        return stacked
    return nn.Parameter(stacked, requires_grad=stacked.is_floating_point())


def _pieces(path: str) -> list[str]:
    """The names along a path; a dot inside brackets (a dict's key) does not part two of them."""
    pieces = re.findall(r"(?:[^.\[]|\[[^\]]*\])+", path)
    return [_free_name(piece.replace(".", "_")) for piece in pieces]


def _free_name(piece: str) -> str:
    """A container's own attributes keep their names: a tensor called ``type`` becomes ``type_``."""
    return piece + "_" if hasattr(nn.Module, piece) or piece == "training" else piece


def twin(value: Any, stacked: Sequence[bool]) -> Any:
    """``value`` with every stacked leaf ``[members, ...]`` replaced by a member's on meta."""
    leaves, shape = flatten(value, objects=True)
    return shape.rebuild(
        [
            torch.empty_like(leaf[0], device="meta", requires_grad=False) if flag else leaf
            for leaf, flag in zip(leaves, stacked, strict=True)
        ]
    )
