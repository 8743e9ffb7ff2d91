"""What is known of a fused block: which of its branches run as one, and by what.

It is kept beside the block, so that no copy or file of it holds it, and found again when the block
has other branches, they other children, or these a tensor where there was none, or none any more.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from chimera.blocks.children import children
from chimera.fuse.choice import hopeless
from chimera.fuse.joint import Joint
from chimera.fuse.lowered import Lowered
from chimera.fuse.part import Part
from chimera.fuse.program import Refused, Unlowerable
from chimera.fuse.vmapped import Batched
from chimera.fuse.widths import SideBySide, but_for_widths, by_size
from chimera.paths.differing import describe_difference
from chimera.paths.memory import overlapping
from chimera.paths.structure import Reading, difference, read

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(slots=True)
class Member:
    """Branches of one structure, by position in the block.

    Attributes:
        positions: of the branches, in order.
        part: runs them as one; None where they cannot.
        how: what the part is, or why there is none.
        last: how the last call ran them, and why.
    """

    positions: list[int]
    part: Part | None
    how: str
    last: str = ""


@dataclass(slots=True)
class Known:
    """What is known of a block: kept beside it, so that no copy or file of it holds it.

    Attributes:
        branches: that it was found out of.
        members: its branches by structure.
        hooks: every dictionary of hooks of every module in the branches.
        holders: every dictionary of children in the branches.
        held: the children that they held.
        tensors: every dictionary of parameters or buffers in the branches.
        blank: which of those were None.
        apart: how the last call ran the branches that no part runs, where not in turn.
    """

    branches: list[nn.Module]
    members: list[Member]
    hooks: list[dict[Any, Any]]
    holders: list[dict[str, Any]]
    held: list[Any]
    tensors: list[dict[str, Any]]
    blank: list[bool]
    apart: str = ""

    def is_of(self, branches: list[nn.Module]) -> bool:
        """Whether the block still has these branches, and they their children and tensors."""
        held = [child for holder in self.holders for child in holder.values()]
        return not (
            any(map(operator.is_not, branches, self.branches))
            or len(held) != len(self.held)
            or any(map(operator.is_not, held, self.held))
            or _blank(self.tensors) != self.blank
        )


def _blank(tensors: list[dict[str, Any]]) -> list[bool]:
    return [tensor is None for kept in tensors for tensor in kept.values()]


KNOWN: WeakKeyDictionary[nn.Module, Known] = WeakKeyDictionary()


def known_of(block: Any) -> Known:
    branches = children(block)
    found = KNOWN.get(block)
    if found is None or not found.is_of(branches):
        members = _members(block)
        parts = [one.part for one in members if one.part is not None]
        modules = {id(m): m for branch in branches for m in branch.modules()}.values()
        hooks = [getattr(module, name) for module in modules for name in _HOOKS]
        holders = [module._modules for module in modules if module._modules]
        held = [child for holder in holders for child in holder.values()]
        share_out([joint for part in parts for joint in part.joints])
        tensors = [t for m in modules for t in (m._parameters, m._buffers) if t]
        blank = _blank(tensors)
        found = KNOWN[block] = Known(branches, members, hooks, holders, held, tensors, blank)
    return found


def changed(known: Known, part: Part) -> str | None:
    if any(known.hooks):
        return "a branch has hooks, which fire once a branch"
    for modules in part.moded:
        first = modules[0].training
        if any(module.training is not first for module in modules):
            return "some branches are in training mode and some are not"
    return None


def share_out(joints: Sequence[Joint]) -> None:
    """Let only those joints be memory that hold tensors which no other one holds."""
    holders: dict[int, int] = {}
    for joint in joints:
        for tensor in {id(tensor) for tensor in joint.current()}:
            holders[tensor] = holders.get(tensor, 0) + 1
    for joint in joints:
        joint.alone = all(holders[id(tensor)] == 1 for tensor in joint.current())


def _members(block: Any) -> list[Member]:
    """The branches by structure; those that differ in width alone together, where they can be."""
    branches = children(block)
    alike = _alike([read(branch) for branch in branches])
    shared = _shared_buffers(branches, alike) | _shared_statistics(branches)
    found = []
    for family in _alike([but_for_widths(read(branches[one[0]])) for one in alike]):
        positions = sorted(position for i in family for position in alike[i])
        wide = None
        if len(family) > 1 and block.inputs == "same" and shared.keys().isdisjoint(positions):
            wide = _of_widths(branches, positions, block.decide)
        found += (
            [wide] if wide else [_member(branches, alike[i], block.decide, shared) for i in family]
        )
    return sorted(found, key=lambda one: min(one.positions))


_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def _shared_statistics(branches: Sequence[nn.Module]) -> dict[int, str]:
    """The branches with a norm whose running statistics stand in another branch too, and why."""
    holders: dict[int, dict[int, str]] = {}
    for position, branch in enumerate(branches):
        for path, module in branch.named_modules():
            if isinstance(module, _NORMS) and module.running_mean is not None:
                holders.setdefault(id(module.running_mean), {}).setdefault(position, path)
    several = [paths for paths in holders.values() if len(paths) > 1]
    return {
        position: f"branches share the running statistics of {path or 'the branch itself'}, "
        "which each updates in turn"
        for paths in several
        for position, path in paths.items()
    }


def _shared_buffers(
    branches: Sequence[nn.Module], alike: Sequence[Sequence[int]]
) -> dict[int, str]:
    """The branches with a buffer that stands in a branch of another structure too, and why.

    Branches of one structure tell whether they change it when they run, see ``vmapped``.
    """
    holders: dict[int, dict[int, dict[int, str]]] = {}
    for group, positions in enumerate(alike):
        for position in positions:
            for name, buffer in branches[position].named_buffers():
                holders.setdefault(id(buffer), {}).setdefault(group, {})[position] = name
    return {
        position: f"branches share {name} with others of another structure, which may change it"
        for groups in holders.values()
        if len(groups) > 1
        for names in groups.values()
        for position, name in names.items()
    }


def _alike(readings: Sequence[Reading]) -> list[list[int]]:
    """Places of the readings by structure, in order of first appearance."""
    found: list[tuple[Reading, list[int]]] = []
    for place, reading in enumerate(readings):
        for known, places in found:
            if difference(known, reading) is None:
                places.append(place)
                break
        else:
            found.append((reading, [place]))
    return [places for _, places in found]


def _of_widths(branches: list[nn.Module], positions: list[int], decide: str) -> Member | None:
    """Branches that differ in width as one; None where they cannot, or never pay."""
    mine = [branches[position] for position in positions]
    places = by_size(mine)
    sorted_ones = [mine[place] for place in places]
    if _overlap(mine) is not None:
        return None
    try:
        part = SideBySide(sorted_ones, [places.index(i) for i in range(len(mine))])
    except Unlowerable:
        return None
    if hopeless(part, len(mine), decide, whole=len(mine) == len(branches)):
        return None
    return Member([positions[place] for place in places], part, "lanes of their own widths")


def _member(
    branches: list[nn.Module], positions: list[int], decide: str, shared: dict[int, str]
) -> Member:
    mine = [branches[position] for position in positions]
    if len(mine) == 1:
        why = "the only one of its structure"
        others = [i for i in range(len(branches)) if i not in positions]
        if others:
            pair = difference(read(branches[others[0]]), read(mine[0]))
            assert pair is not None
            why += f" (against branch {others[0]}, {describe_difference(pair)})"
        return Member(positions, None, why)
    for position in positions:
        if position in shared:
            return Member(positions, None, shared[position])
    try:
        part, how = _part_of(mine)
    except Refused as error:
        return Member(positions, None, str(error))
    why = hopeless(part, len(mine), decide, whole=len(mine) == len(branches))
    return Member(positions, None, why) if why else Member(positions, part, how)


def _part_of(branches: Sequence[nn.Module]) -> tuple[Part, str]:
    """The part that runs ``branches`` as one, and how in a few words.

    Raises:
        Refused: they cannot run as one; the message says why.
    """
    overlap = _overlap(branches)
    if overlap is not None:
        raise Refused(overlap)
    try:
        return Lowered(branches), "operations with a lane axis"
    except Unlowerable as error:
        return Batched(branches), f"torch.vmap, since there is {error}"


def _overlap(branches: Sequence[nn.Module]) -> str | None:
    slots = {id(slot.tensor): slot for branch in branches for slot in read(branch).slots}
    pair = overlapping(list(slots.values()))
    return None if pair is None else f"{pair[1].path} shares memory with {pair[0].path}"
