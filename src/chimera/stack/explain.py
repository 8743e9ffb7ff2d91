"""How a Stack runs: for every path the rule that runs it, or why members run one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from chimera.stack.group import Group
from chimera.stack.plan import Plan
from chimera.stack.rules import rule_of

BATCHED = "batched by torch.func"
ALONE = "one by one"


@dataclass(frozen=True, slots=True)
class Row:
    """How one module of the members runs.

    Attributes:
        group: index of the group.
        path: of the module in a member.
        kind: its class.
        rule: the stack rule that runs it: a rule's name, ``"batched by torch.func"``, or
            ``"one by one"``.
        reason: why it runs one by one, else empty.
    """

    group: int
    path: str
    kind: str
    rule: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What ``explain`` found.

    Attributes:
        rows: one for every module of every group.
        notes: whole sentences: what was adopted, how groups differ, how conditions split.
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def alone(self) -> tuple[Row, ...]:
        """The rows of what runs one by one."""
        return tuple(row for row in self.rows if row.rule == ALONE)

    def __str__(self) -> str:
        cells = [("group", "path", "class", "rule", "")]
        cells += [
            (str(row.group), row.path or "(root)", row.kind, row.rule, row.reason)
            for row in self.rows
        ]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip()
            for row in cells[: 1 if not self.rows else None]
        ]
        return "\n".join([*(lines if self.rows else []), *self.notes])


def explain_stack(
    groups: Sequence[Group], differences: Sequence[str], *, uneven: bool = False
) -> Explanation:
    """How a stack of these groups runs, by what its calls so far have shown.

    Args:
        groups: in order.
        differences: for every group but the first, in what it differs from that one.
        uneven: whether the last call gave tensors that do not go into one.
    """
    rows: list[Row] = []
    notes: list[str] = []
    for index, group in enumerate(groups):
        rows += _rows(index, group)
        notes += _notes(index, group)
    notes += [
        f"group {index}: members of another structure than group 0: {difference}"
        for index, difference in enumerate(differences, start=1)
    ]
    if uneven:
        notes.append("outputs of the last call differ in shape or dtype; they came as a list")
    return Explanation(tuple(rows), tuple(notes))


def _rows(index: int, group: Group) -> list[Row]:
    reason = alone_because(group)
    ruled = all(plan.ruled for plan in group.plans.values())
    rows = []
    for place, (path, module) in enumerate(group.reading.modules):
        kind = type(module).__name__
        if reason:
            rows.append(Row(index, path, kind, ALONE, reason))
        else:
            rule = rule_of(module)
            own = group.numbers.names(place)
            name = rule.name if rule and ruled else BATCHED
            name = f"batched with each member's own {', '.join(own)}" if own else name
            rows.append(Row(index, path, kind, name))
    return rows


def alone_because(group: Group) -> str:
    """Why a group runs, or ran in its last call, one by one in some kind of call; or nothing."""
    plans: list[Plan] = list(group.plans.values())
    return next((why for plan in plans if (why := plan.alone or plan.last)), "")


def _notes(index: int, group: Group) -> list[str]:
    notes = [
        f"group {index}: {path} is a plain tensor attribute; it was adopted as a buffer"
        for path in group.adopted
    ]
    plans: list[Plan] = list(group.plans.values())
    if not plans:
        notes.append(f"group {index}: no call has run yet; what falls back shows in the first")
    caught = sum(plan.caught for plan in plans)
    if caught and not alone_because(group):
        notes.append(
            f"group {index}: forward caught errors in {caught} call{'s' * (caught > 1)}, which ran "
            "one by one, since they may be one member's alone"
        )
    parts = max((plan.parts for plan in plans if plan.conditions), default=0)
    if parts and not alone_because(group):
        notes.append(f"group {index}: conditions on data; the last call ran in {parts} parts")
    return notes


def explain(thing: Any) -> Any:
    """How ``thing`` runs, and what was done to it.

    Args:
        thing: a Stack, a step, or a module that ``build`` or ``fuse`` made.

    Returns:
        An object whose ``str`` is the report; for a Stack an ``Explanation``.

    Raises:
        TypeError: there is nothing to explain about such an object.
    """
    if hasattr(type(thing), "__explain__"):
        return thing.__explain__()
    if isinstance(thing, nn.Module):
        from chimera.build.adopt import report_of

        notes = report_of(thing)
        for path, part in thing.named_modules():
            if hasattr(type(part), "__explain__"):
                notes += [f"{path}: {line}" for line in str(part.__explain__()).splitlines()]
        if not notes:
            notes = [
                f"{type(thing).__name__} runs as torch runs it: it is no Stack, and build and fuse "
                "changed nothing in it"
            ]
        return Explanation(notes=tuple(notes))
    raise TypeError(
        f"explain takes a Stack, a step or a module, got {thing!r:.60} "
        f"of type {type(thing).__name__}"
    )
