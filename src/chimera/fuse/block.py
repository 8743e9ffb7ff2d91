"""A ``Parallel`` whose branches of one structure run as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from chimera.blocks import Parallel
from chimera.blocks.children import children, names
from chimera.blocks.combine import WAYS
from chimera.fuse.beside import Beside
from chimera.fuse.choice import decision
from chimera.fuse.known import KNOWN, Known, Member, changed, known_of
from chimera.fuse.lanes import Lanes
from chimera.fuse.lowered import Lowered
from chimera.fuse.nested import combined
from chimera.fuse.part import Given
from chimera.fuse.program import Refused, Run
from chimera.fuse.reached import Reach, parted
from chimera.fuse.streams import Queues, at_once, estimated, may_draw, pays, queues_of
from chimera.fuse.traced import Plan, modes_of, planned, rows_of, run_traced
from chimera.fuse.transforms import transformed
from chimera.stack.explain import Explanation

_WITH_THE_FIRST = object()
"""Stands for the output of a branch that is part of an earlier neighbour's."""


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
        self.never = not any(one.part is not None for one in known_of(self).members)

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
        parts = known_of(self).members
        return [branches[i] for one in parts if one.part is not None for i in one.positions]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The outputs of the branches, combined."""
        if self.never and not _on_gpu((inputs,)):
            return Parallel.forward(self, *inputs, **named)
        if self.devices is not None:
            return super().forward(*inputs, **named)
        if torch.compiler.is_compiling():
            return self._forward_traced(inputs, named)
        if transformed() and self not in KNOWN:  # as inside a Stack: tensors without memory
            return super().forward(*inputs, **named)
        known = known_of(self)
        size = len(self)
        given = self._each(inputs) if self.inputs == "each" else [inputs] * size
        outputs: list[Any] = [None] * size
        left = set(range(size))
        for one in known.members:
            reach = Reach(len(one.positions))
            made = self._run_part(known, one, given, named, reach)
            if made is None:
                continue
            left -= set(one.positions)
            if isinstance(made, Tensor | Beside) and _side_by_side(one.positions):
                whole = self._whole(made)
                if whole is not None and len(one.positions) == size:
                    return whole
                if whole is not None and self.combine == "concat":
                    outputs[one.positions[0]] = whole
                    for position in one.positions[1:]:
                        outputs[position] = _WITH_THE_FIRST
                    continue
            for position, output in zip(one.positions, _one_by_one(made, reach), strict=True):
                outputs[position] = output
        for i, output in self._run_alone(known, sorted(left), given, named):
            outputs[i] = output
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
            if len(positions) == len(self) and isinstance(made, Tensor):
                whole = self._whole(made)
                if whole is not None:
                    return whole
            each = made.unbind(0) if isinstance(made, Tensor) else made
            for position, output in zip(positions, each, strict=True):
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
        known = known_of(self)
        found = []
        for one in known.members:
            if isinstance(one.part, Lowered) and changed(known, one.part) is None:
                found.append((one.part, one.positions))
                one.last = "the last call was traced as one"
        return planned(self, found)

    def _run_part(
        self, known: Known, one: Member, given: Given, named: dict[str, Any], reach: Reach
    ) -> Any:
        if one.part is None:
            return None
        mine = [given[position] for position in one.positions]
        whole = len(one.positions) == len(self)
        refused = changed(known, one.part) or one.part.refuses(mine, named, whole=whole)
        if refused is None:
            branches = [known.branches[i] for i in one.positions]

            def alone() -> list[Any]:
                return [
                    self._run(i, branch, given[i], named)
                    for i, branch in zip(one.positions, branches, strict=True)
                ]

            try:
                found = decision(one.part, branches, mine, named, alone, self.decide)
                made = one.part.run(mine, named, reach) if found.as_one else None
            except Refused as error:
                refused = str(error)
            else:
                how = "as one" if found.as_one else "one by one"
                said = f"; {one.part.said}" if found.as_one and one.part.said else ""
                one.last = f"the last call ran {how}: {found.why}{said}"
                return made
        one.last = f"the last call ran one by one: {refused}"
        return None

    def _run_alone(
        self, known: Known, left: list[int], given: Given, named: dict[str, Any]
    ) -> list[tuple[int, Any]]:
        """The outputs of branches that no part ran, by position."""
        queues = _queues(known.branches, left) if _on_gpu(given) else None
        known.apart = ""
        if queues is None:
            return [(i, self._run(i, known.branches[i], given[i], named)) for i in left]

        def task(i: int) -> Callable[[], Any]:
            return lambda: self._run(i, known.branches[i], given[i], named)

        tasks = [task(i) for i in left]
        works = [estimated(known.branches[i], given[i]) for i in left]
        known.apart = pays(queues, works)
        if not known.apart:
            return [(i, run()) for i, run in zip(left, tasks, strict=True)]
        in_order = any(known.hooks) or any(may_draw(known.branches[i]) for i in left)
        made = at_once(queues, tasks, works, [given, named], in_order=in_order)
        return list(zip(left, made, strict=True))

    def _whole(self, made: Tensor | Beside) -> Any:
        """The combined output of all branches ``[branches, ...]`` at once; None where not so."""
        if isinstance(made, Beside):
            return made.along(self.dim) if self.combine == "concat" else None
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
        known = known_of(self)
        for one in known.members:
            who = ", ".join(kinds[i] for i in sorted(one.positions)[:4])
            more = len(one.positions) - 4
            who += f" and {more} more" if more > 0 else ""
            word = "branch" if len(one.positions) == 1 else "branches"
            how = f"as one by {one.how}" if one.part is not None else f"not fused: {one.how}"
            found.append(f"{word} {who}: {how}" + (f"; {one.last}" if one.last else ""))
        if known.apart:
            found.append(f"the last call ran what was not fused {known.apart}")
        return Explanation(notes=tuple(found))


def _one_by_one(made: Any, reach: Reach) -> Sequence[Any]:
    """The branches' outputs of what a part gave."""
    if isinstance(made, Beside):
        assert made.widths is not None  # refused otherwise
        return parted([made.tensor], reach, (made.widths, made.axis))[0]
    return parted([made], reach)[0] if isinstance(made, Tensor) else made


def _on_gpu(given: Sequence[tuple[Any, ...]]) -> bool:
    """Whether the first input is on a GPU, where branches may have streams."""
    # torch 2.11 cannot trace bool() of a tuple.
    return len(given) > 0 and len(given[0]) > 0 and getattr(given[0][0], "is_cuda", False)


def _queues(branches: list[nn.Module], left: list[int]) -> Queues | None:
    """The streams of the device of all branches left; None where there are none."""
    if len(left) < 2 or transformed():
        return None
    devices = {p.device for i in left for p in branches[i].parameters()}
    return queues_of(devices.pop()) if len(devices) == 1 else None


def _side_by_side(positions: Sequence[int]) -> bool:
    """Whether branches at ``positions`` are neighbours, in order."""
    return all(b == a + 1 for a, b in pairwise(positions))
