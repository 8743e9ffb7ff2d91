"""A call of a group in as many runs as conditions on data part its members into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from chimera.decide.split import Decisions, Differ, parts_of
from chimera.draws.mode import Key
from chimera.paths.version import unchanged, version
from chimera.stack.batched import Call, Ran, run_batched
from chimera.stack.each import Arguments
from chimera.stack.group import Group
from chimera.stack.shadow import Shadow


class TooManyParts(Exception):
    """Conditions on data part the members so much that the loop is faster."""


class Parts:
    """A run of a group in as many parts as its conditions ask for, from one part on."""

    def __init__(
        self,
        group: Group,
        call: Call,
        arguments: Arguments,
        key: Key | None,
        members: Sequence[int],
        shadow: Shadow,
    ) -> None:
        self._group, self._call, self._arguments = group, call, arguments
        self._key, self._members, self._shadow = key, members, shadow
        self.watches = False
        self.ruled = True
        self.casts = self.cast = False
        self.wary = self.writes = self.mended = False
        self.copies, self.changes = True, False
        self.guarded = self.strange = False
        self.draws = self.conditions = self.replaced = self.done = 0

    def run(self) -> list[Ran]:
        """The runs that count, one a part.

        Raises:
            TooManyParts: the runs would exceed a quarter of the members.
        """
        most = max(1, len(self._group) // 4)
        todo: list[tuple[list[int] | None, list[Any]]] = [(None, [])]
        runs: list[Ran] = []
        count = 0
        while todo:
            places, recorded = todo.pop()
            count += 1
            if count + len(todo) > most and count > 1:
                raise TooManyParts(
                    f"conditions on data part the {len(self._group)} members into more than "
                    f"{most} runs"
                )
            decisions = Decisions(recorded) if self.watches else None
            try:
                runs.append(self._run(places, decisions))
            except Differ as differ:
                assert decisions is not None
                self._shadow.restore()
                mine = places or list(range(len(self._group)))
                todo += [
                    ([mine[i] for i in where], [*decisions.made, outcome])
                    for outcome, where in parts_of(differ.outcomes)
                ]
        self.done = len(runs)
        return runs

    def _run(self, places: list[int] | None, decisions: Decisions | None) -> Ran:
        members = self._members if places is None else [self._members[i] for i in places]
        pairs = zip(self._group.tensors(), self._group.trained, strict=True)
        parameters = [tensor for tensor, trained in pairs if trained]
        versions = [version(parameter) for parameter in parameters]
        arguments = self._arguments.cloned() if self.copies else self._arguments
        given = [leaf for leaf in arguments.leaves if isinstance(leaf, Tensor)]
        before = [version(leaf) for leaf in given]
        try:
            ran = run_batched(
                self._group,
                self._call,
                arguments,
                places=places,
                key=self._key,
                members=members,
                decisions=decisions,
                ruled=self.ruled,
                wary=self.wary,
                strange=self.strange,
                casts=self.casts,
                guarded=self.guarded,
            )
        finally:
            self.changes |= not all(map(unchanged, given, before))
        self.writes |= bool(ran.parameters) or not all(map(unchanged, parameters, versions))
        self.draws += ran.draws
        self.replaced += ran.replaced
        self.mended |= ran.mended
        self.guarded |= ran.guarded
        self.cast |= ran.cast
        self.conditions += len(decisions.made) + decisions.asked if decisions else 0
        return ran
