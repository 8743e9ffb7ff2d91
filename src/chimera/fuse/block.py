"""A ``Parallel`` whose branches of one structure run as one."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from chimera.blocks import Parallel
from chimera.blocks.children import children, names
from chimera.blocks.combine import WAYS
from chimera.fuse.choice import decision, hopeless
from chimera.fuse.joint import Joint
from chimera.fuse.lanes import Lanes
from chimera.fuse.nested import combined
from chimera.fuse.parts import Given, Lowered, Part, Refused, part_of
from chimera.fuse.program import Run
from chimera.fuse.traced import Plan, modes_of, planned, rows_of, run_traced
from chimera.fuse.transforms import transformed
from chimera.paths.structure import describe_difference, difference, read
from chimera.stack.explain import Explanation

_WITH_THE_FIRST = object()
"""Stands for the output of a branch that is part of an earlier neighbour's."""
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


class Fused(Parallel):
    """A ``Parallel`` whose branches of one structure run as one.

    Its branches, their names, parameters, buffers and ``state_dict`` are those of the block that
    it was made from; see ``fuse``.
    """

    def __init__(self, block: Parallel, decide: str) -> None:
        nn.Module.__init__(self)
        for name, value in vars(block).items():
            self.__dict__[name] = value.copy() if isinstance(value, dict) else value
        self.made_from, self.decide = type(block), decide
        # So that a block that gains nothing loses nothing.
        self.never = not any(one.part is not None for one in _known(self).members)

    def plain(self) -> Parallel:
        """The block that this one was made from, with the branches of this one."""
        block = self.made_from.__new__(self.made_from)
        nn.Module.__init__(block)
        for name, value in vars(self).items():
            if name not in ("made_from", "decide", "never"):
                block.__dict__[name] = value.copy() if isinstance(value, dict) else value
        return block

    def as_one(self) -> list[nn.Module]:
        """The branches that can run as one with others."""
        if self.devices is not None:
            return []
        branches = children(self)
        parts = _known(self).members
        return [branches[i] for one in parts if one.part is not None for i in one.positions]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The outputs of the branches, combined."""
        if self.never or self.devices is not None:
            return super().forward(*inputs, **named)
        if torch.compiler.is_compiling():
            return self._forward_traced(inputs, named)
        if transformed() and self not in _KNOWN:  # as inside a Stack: tensors without memory
            return super().forward(*inputs, **named)
        known = _known(self)
        size = len(self)
        given = self._each(inputs) if self.inputs == "each" else [inputs] * size
        outputs: list[Any] = [None] * size
        left = set(range(size))
        for one in known.members:
            made = self._run_part(known, one, given, named)
            if made is None:
                continue
            left -= set(one.positions)
            if isinstance(made, Tensor) and _side_by_side(one.positions):
                whole = self._whole(made)
                if whole is not None and len(one.positions) == size:
                    return whole
                if whole is not None and self.combine == "concat":
                    outputs[one.positions[0]] = whole
                    for position in one.positions[1:]:
                        outputs[position] = _WITH_THE_FIRST
                    continue
            for place, position in enumerate(one.positions):
                outputs[position] = made[place]
        for i, branch in enumerate(children(self)):
            if i in left:
                outputs[i] = self._run(i, branch, given[i], named)
        if any(output is _WITH_THE_FIRST for output in outputs):
            return self._joined(outputs, inputs, named)
        if callable(self.combine):
            return self.combine(outputs)
        return WAYS[self.combine](names(self), outputs, self.dim)

    def _forward_traced(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = self._each(inputs) if self.inputs == "each" else [inputs] * len(self)
        plain = named or not all(len(a) == 1 and isinstance(a[0], Tensor) for a in given)
        plan = () if plain else self._plan()
        outputs: dict[int, Any] = {}
        for number, positions, homes, moded in plan:
            mine = [given[i][0] for i in positions] if self.inputs == "each" else [inputs[0]]
            made = run_traced(number, mine, rows_of(self, homes), modes_of(self, moded))
            if len(positions) == len(self):
                whole = self._whole(made)
                if whole is not None:
                    return whole
            for position, output in zip(positions, made.unbind(0), strict=True):
                outputs[position] = output
        for i, branch in enumerate(children(self)):
            if i not in outputs:
                outputs[i] = self._run(i, branch, given[i], named)
        found = [outputs[i] for i in range(len(self))]
        if callable(self.combine):
            return self.combine(found)
        return WAYS[self.combine](names(self), found, self.dim)

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def _plan(self) -> Plan:
        """What a graph runs as one; nothing here is looked at by the compiler."""
        known = _known(self)
        found = []
        for one in known.members:
            if isinstance(one.part, Lowered) and _changed(known, one.part) is None:
                found.append((one.part, one.positions))
                one.last = "the last call was traced as one"
        return planned(self, found)

    def _run_part(self, known: Known, one: Member, given: Given, named: dict[str, Any]) -> Any:
        if one.part is None:
            return None
        mine = [given[position] for position in one.positions]
        whole = len(one.positions) == len(self)
        refused = _changed(known, one.part) or one.part.refuses(mine, named, whole=whole)
        if refused is None:
            branches = [known.branches[i] for i in one.positions]

            def alone() -> list[Any]:
                return [
                    self._run(i, branch, given[i], named)
                    for i, branch in zip(one.positions, branches, strict=True)
                ]

            try:
                found = decision(one.part, branches, mine, named, alone, self.decide)
                made = one.part.run(mine, named) if found.as_one else None
            except Refused as error:
                refused = str(error)
            else:
                how = "as one" if found.as_one else "one by one"
                one.last = f"the last call ran {how}: {found.why}"
                return made
        one.last = f"the last call ran one by one: {refused}"
        return None

    def _whole(self, made: Tensor) -> Any:
        """The combined output of all branches ``[branches, ...]`` at once; None where not so."""
        if not isinstance(self.combine, str) or self.combine == "tuple":
            return None
        axes = made.dim() - 1 + (self.combine == "stack")
        if self.combine in ("concat", "stack") and not -axes <= self.dim < axes:
            return None
        return combined(self, made.unsqueeze(0), Run([]), Lanes(made))[0]

    def _joined(self, outputs: list[Any], inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What the branches gave, concatenated; neighbours that ran as one are one already."""
        found = [output for output in outputs if output is not _WITH_THE_FIRST]
        try:
            return WAYS["concat"]([str(i) for i in range(len(found))], found, self.dim)
        except (TypeError, ValueError):
            return super().forward(*inputs, **named)  # raises with the names of the branches

    def __explain__(self) -> Explanation:
        """What was fused, what was not, and why: a line for each group of branches."""
        kinds = names(self)
        found = []
        if self.devices is not None:
            return Explanation(notes=("not fused: branches on devices of their own (devices=)",))
        for one in _known(self).members:
            who = ", ".join(kinds[i] for i in one.positions[:4])
            more = len(one.positions) - 4
            who += f" and {more} more" if more > 0 else ""
            word = "branch" if len(one.positions) == 1 else "branches"
            how = f"as one by {one.how}" if one.part is not None else f"not fused: {one.how}"
            found.append(f"{word} {who}: {how}" + (f"; {one.last}" if one.last else ""))
        return Explanation(notes=tuple(found))


@dataclass(slots=True)
class Known:
    """What is known of a block: kept beside it, so that no copy or file of it holds it.

    Attributes:
        branches: that it was found out of.
        members: its branches by structure.
        hooks: every dictionary of hooks of every module in the branches.
        holders: every dictionary of children in the branches.
        held: the children that they held.
    """

    branches: list[nn.Module]
    members: list[Member]
    hooks: list[dict[Any, Any]]
    holders: list[dict[str, Any]]
    held: list[Any]

    def is_of(self, branches: list[nn.Module]) -> bool:
        """Whether the block still has these branches, and they their children."""
        held = [child for holder in self.holders for child in holder.values()]
        return not (
            any(map(operator.is_not, branches, self.branches))
            or len(held) != len(self.held)
            or any(map(operator.is_not, held, self.held))
        )


def _side_by_side(positions: list[int]) -> bool:
    return positions[-1] - positions[0] + 1 == len(positions)


_KNOWN: WeakKeyDictionary[Fused, Known] = WeakKeyDictionary()


def _known(block: Fused) -> Known:
    branches = children(block)
    found = _KNOWN.get(block)
    if found is None or not found.is_of(branches):
        members = [_member(branches, positions, block.decide) for positions in _alike(block)]
        parts = [one.part for one in members if one.part is not None]
        modules = {id(m): m for branch in branches for m in branch.modules()}.values()
        hooks = [getattr(module, name) for module in modules for name in _HOOKS]
        holders = [module._modules for module in modules if module._modules]
        held = [child for holder in holders for child in holder.values()]
        share_out([joint for part in parts for joint in part.joints])
        found = _KNOWN[block] = Known(branches, members, hooks, holders, held)
    return found


def _changed(known: Known, part: Part) -> str | None:
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


def _alike(block: Fused) -> list[list[int]]:
    """Positions of the branches by structure, in order of first appearance."""
    found: list[tuple[Any, list[int]]] = []
    for position, branch in enumerate(children(block)):
        reading = read(branch)
        for known, positions in found:
            if difference(known, reading) is None:
                positions.append(position)
                break
        else:
            found.append((reading, [position]))
    return [positions for _, positions in found]


def _member(branches: list[nn.Module], positions: list[int], decide: str) -> Member:
    mine = [branches[position] for position in positions]
    if len(mine) == 1:
        why = "the only one of its structure"
        others = [i for i in range(len(branches)) if i not in positions]
        if others:
            pair = difference(read(branches[others[0]]), read(mine[0]))
            assert pair is not None
            why += f" (against branch {others[0]}, {describe_difference(pair)})"
        return Member(positions, None, why)
    try:
        part, how = part_of(mine)
    except Refused as error:
        return Member(positions, None, str(error))
    why = hopeless(part, len(mine), decide)
    return Member(positions, None, why) if why else Member(positions, part, how)
