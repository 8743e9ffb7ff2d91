"""The members of one structure: one skeleton module, and every tensor of theirs stacked.

The skeleton holds what the members have in common; its own tensors are on the meta device, so
that nothing of one member can ever be used for another. The stacked tensors stand in a tree of
containers whose names are the members' paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.paths.nest import flatten
from chimera.paths.slots import Exchange, skeleton
from chimera.paths.structure import Reading, Slot, read
from chimera.paths.tags import tags_of
from chimera.stack.absent import ALL, in_loops, reached_by
from chimera.stack.frozen import Frozen
from chimera.stack.numbers import Numbers, different
from chimera.stack.rules import forwards_of
from chimera.stack.tree import Tree, is_trained, register, stacked
from chimera.stack.turn import Turn


class Group:
    """Members of one structure.

    Args:
        first: the first member, which stays as it is.
        members: their places in the stack, and what was read of each.

    Attributes:
        partial: whether gradients may leave rows out, those of members that did not use a
            parameter.
        changed: whether the last call wrote attributes that are no tensors, so that the next one
            may take another way through the module's code.
        own: by (module index, name) the attributes that differ between members, numeric settings
            and what a call wrote: one value a member.
        still: who holds which parameter frozen.
        turn: held by the thread whose members stand in the template.
    """

    partial = False
    changed = False

    def __init__(self, first: nn.Module, members: Sequence[tuple[int, Reading]]) -> None:
        self.positions = [position for position, _ in members]
        readings = [reading for _, reading in members]
        self.template = skeleton(first)
        self.tree = Tree()
        self.reading = Reading()
        self._homes: list[tuple[nn.Module, str]] = []
        self.own: dict[tuple[int, str], list[Any]] = different(readings)
        self.plans: dict[Any, Any] = {}
        self.still = Frozen()
        self.turn = Turn()
        twins = read(self.template).slots
        self.adopted = [s.path for s in twins if s.kind == "attribute" or s.hidden]
        self.read_again(
            {
                id(twin.tensor): stacked([reading.slots[i] for reading in readings])
                for i, twin in enumerate(twins)
            }
        )
        self.partial = bool(self._in_loops)
        for i, slot in enumerate(self.slots):
            if is_trained(slot):
                self.still.note(slot, [not r.slots[i].tensor.requires_grad for r in readings])

    def __len__(self) -> int:
        return len(self.positions)

    def read_again(self, new: dict[int, Tensor]) -> None:
        """Take note of the template's tensors; ``new`` gives the stacked ones by id of a twin."""
        known = {id(slot.tensor): home for slot, home in zip(self.slots, self._homes, strict=True)}
        self.reading = read(self.template)
        present = {id(slot.tensor) for slot in self.slots}
        for twin_id, (container, name) in known.items():
            if twin_id not in present:
                delattr(container, name)
        homes = [
            known.get(id(slot.tensor))
            or register(self.tree, slot, new[id(slot.tensor)], lasting=not self.is_made(slot))
            for slot in self.slots
        ]
        self._homes = homes
        self.prepare()

    def is_made(self, slot: Slot) -> bool:
        """Whether a call made the tensor of a slot, in a plain attribute.

        A module alone has it in no ``state_dict``, nor has the stack.
        """
        return slot.kind == "attribute" and slot.path not in self.adopted

    def prepare(self) -> None:
        """Take note of the template and of attributes that differ, before the next call."""
        self.numbers = Numbers(self.reading, self.own)
        self.trained = [is_trained(slot) for slot in self.slots]
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
        kept = {k: v for k, v in self.__dict__.items() if k not in again}
        return kept | {"tags": [tags_of(slot.tensor) for slot in self.slots]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        tags = state.pop("tags")
        self.__dict__.update(state)
        for slot, own in zip(read(self.template).slots, tags, strict=True):
            slot.tensor.__dict__.update(own)  # which copy.deepcopy leaves out of a parameter
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

    @property
    def homes(self) -> list[tuple[nn.Module, str]]:
        """Which module of the tree holds every slot's stacked tensor, and by which name."""
        return self._homes

    def place_of(self, home: tuple[nn.Module, str]) -> int:
        """Which slot's stacked tensor is held there: calls that make tensors move the slots."""
        return self._homes.index(home)

    @property
    def constants(self) -> tuple[Any, ...]:
        """What a recorded call holds for good: numeric settings, and whose rows are frozen."""
        return (*self.numbers.values, self.still.constants)

    def frozen(self, index: int) -> Tensor | None:
        """Which members hold the parameter of a slot frozen ``[members]`` bool; None for none."""
        container, name = self._homes[index]
        return self.still.of(self.slots[index], getattr(container, name))

    def running(
        self, tensors: Sequence[Tensor] | None = None, span: range | None = None
    ) -> list[Tensor]:
        """The stacked tensors as a call uses them: no gradient reaches a frozen member's row.

        Args:
            tensors: to stand for the group's own, one a slot.
            span: the members that they are of; None for all.
        """
        tensors = self.tensors() if tensors is None else list(tensors)
        return self.still.cut(self.slots, tensors, span)

    def reached(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of ``running`` for a run of all members, where gradients may leave rows out.

        The rule of ``While`` leaves rows out by itself.
        """
        return [
            reached_by(tensor, ALL) if tensor.requires_grad and i not in self._in_loops else tensor
            for i, tensor in enumerate(tensors)
        ]

    def own_of(self, place: int) -> list[dict[str, Any]]:
        """By module, the attributes that the ``place``-th member alone has."""
        found: list[dict[str, Any]] = [{} for _ in self.reading.modules]
        for (index, name), values in self.own.items():
            found[index][name] = values[place]
        return found


def twin(value: Any, stacked: Sequence[bool]) -> Any:
    """``value`` with every stacked leaf ``[members, ...]`` replaced by a member's on meta."""
    leaves, shape = flatten(value, objects=True)
    return shape.rebuild(
        [
            torch.empty_like(leaf[0], device="meta", requires_grad=False) if flag else leaf
            for leaf, flag in zip(leaves, stacked, strict=True)
        ]
    )
