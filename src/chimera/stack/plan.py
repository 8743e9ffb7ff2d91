"""How a group runs a call, found once and remembered: as one, in parts, or one by one.

A plain run under vmap is tried first. What it refuses is run again with every mode (draws from
keys, conditions read and split); what that refuses too runs one by one, and the reason is kept
for ``explain``. Runs that do not count leave no trace. A run is watched for what goes wrong in
silence where its code may take a way that it has not taken yet: the first of its kind, with shapes
or values not seen, and after a call that wrote a number, a text or a container into the module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from chimera.decide.transforms import level
from chimera.draws.mode import Key
from chimera.draws.recompute import Stopped
from chimera.stack.batched import Call, Ran
from chimera.stack.each import Arguments
from chimera.stack.group import Group
from chimera.stack.holders import Held
from chimera.stack.own_leaves import NeedsLeaves
from chimera.stack.parts import Parts, TooManyParts
from chimera.stack.reasons import why_alone
from chimera.stack.rules import rule_of
from chimera.stack.rules.autocast import autocast_of
from chimera.stack.shadow import Shadow
from chimera.stack.single import run_single
from chimera.stack.witness import Changes, Escaped, Swallowed


@dataclass(slots=True)
class Plan:
    """What is known of one kind of call of a group.

    Attributes:
        fresh: nothing has run yet.
        draws: the members draw random numbers.
        conditions: the members ask tensors for Python values.
        functions: the members call functions of torch that run in another form.
        mended: torch itself would compute one of these wrongly.
        casts: autocast is on, around the call or in it.
        writes: the members change their parameters in place.
        copies: the members change their inputs in place, and so get copies.
        seen: shapes and values of inputs with which they do not.
        guarded: the members catch errors of what they compute.
        caught: in how many calls they did, as they ran as one; these ran one by one.
        changed: how many calls in a row, likewise, changed what is outside of the modules.
        last: why the last call ran one by one, or None; the next may not.
        ruled: stack rules run the layers that have one.
        leaves: one by one, the members need parameters that are leaves.
        hooks: one by one, the members hook tensors.
        alone: why they run one by one, or None.
        parts: into how many parts conditions split the members the last time.
    """

    fresh: bool = True
    draws: bool = False
    conditions: bool = False
    functions: bool = False
    mended: bool = False
    casts: bool = False
    writes: bool = False
    copies: bool = False
    seen: set[Any] = field(default_factory=set)
    guarded: bool = False
    caught: int = 0
    changed: int = 0
    last: str | None = None
    ruled: bool = True
    leaves: bool = False
    hooks: bool = False
    alone: str | None = None
    parts: int = 1


ONLY_MEMBER = "the only member of its structure"
"""Why eager runs a member by itself; a recording need not."""

_MOST_SEEN = 256

_MOST_CAUGHT = 4

_MOST_CHANGED = 2  # a cache is filled once


def run(
    group: Group, call: Call, arguments: Arguments, key: Key, members: Sequence[int]
) -> tuple[list[Ran], Shadow]:
    """Run a call on every member of a group, as its plan says; see ``Plan``.

    Args:
        group: the group.
        call: what to do with one member.
        arguments: of the whole group. The first call with such shapes and values gets copies, and
            so does every later one where a call of its kind changed them.
        key: of the draws.
        members: the ids of the group's members.

    Returns:
        The runs, for the caller to keep, and what puts back what they changed in place.
    """
    plan = plan_of(group, arguments)
    if plan.alone is None:
        plan.alone = _must_run_alone(group)
    familiar = arguments.familiar
    strange = familiar not in plan.seen
    wary = strange or group.changed or (plan.fresh and plan.alone is None)
    group.changed = False
    if plan.alone is not None:
        return _run_alone(group, call, arguments, key, members, wary)
    reason: Exception | None = None
    for draws, conditions, ruled in _ways(group, plan, wary):
        shadow = Shadow(group, parameters=wary or plan.writes)
        parts = Parts(group, call, arguments, key if draws else None, members, shadow)
        parts.watches, parts.ruled, parts.wary = conditions, ruled, wary
        parts.casts = conditions or plan.casts or autocast_of(group.device) is not None
        parts.copies = plan.copies or conditions or wary
        parts.guarded, parts.strange = plan.guarded, plan.fresh or strange
        try:
            runs = parts.run()
        except Stopped:
            raise
        except Held:
            shadow.restore()
            raise
        except Exception as error:
            shadow.restore()
            reason = error
            plan.copies |= parts.changes
            if parts.changes and not parts.copies:
                raise
            if isinstance(error, TooManyParts | Escaped | Changes):
                break
        else:
            _learn(plan, parts)
            _note_seen(plan, arguments)
            return runs, shadow
    assert reason is not None
    ran = _run_alone(group, call, arguments, key, members, True)
    plan.caught += isinstance(reason, Swallowed)
    plan.changed += isinstance(reason, Changes)
    plan.last = why_alone(reason) if isinstance(reason, Changes) else None
    again = isinstance(reason, Swallowed | Changes)
    if not again or plan.caught >= _MOST_CAUGHT or plan.changed >= _MOST_CHANGED:
        plan.alone = why_alone(reason)
    return ran


def _note_seen(plan: Plan, arguments: Arguments) -> None:
    familiar = arguments.familiar
    if familiar is not None and len(plan.seen) < _MOST_SEEN:
        plan.seen.add(familiar)


def _run_alone(
    group: Group, call: Call, arguments: Arguments, key: Key, members: Sequence[int], wary: bool
) -> tuple[list[Ran], Shadow]:
    plan = plan_of(group, arguments)
    shadow = Shadow(group, parameters=True)
    watch = (wary and level() == 0) or plan.hooks
    try:
        try:
            runs, hooks = run_single(
                group, call, arguments, key=key, members=members, leaves=plan.leaves, watch=watch
            )
        except NeedsLeaves:
            shadow.restore()
            plan.leaves = True
            runs, hooks = run_single(
                group, call, arguments, key=key, members=members, leaves=True, watch=watch
            )
    except Stopped:
        raise
    except BaseException:
        shadow.restore()
        raise
    plan.hooks |= hooks
    plan.draws |= any(ran.draws for ran in runs)
    _note_seen(plan, arguments)
    return runs, shadow


def _ways(group: Group, plan: Plan, wary: bool) -> Iterator[tuple[bool, bool, bool]]:
    """What to try in turn: (draws from keys, conditions split, stack rules)."""
    # What vmap says of a draw, the module might catch; what the mode says, it cannot hide.
    known = (plan.draws or wary, plan.conditions or plan.functions, plan.ruled)
    yield known
    others = [(True, True, True)] if known[2] else []
    if not known[2] or any(rule_of(module) for _, module in group.reading.modules):
        others.append((True, True, False))
    yield from (way for way in others if way != known)


def plan_of(group: Group, arguments: Arguments) -> Plan:
    """The plan for calls of this kind: nesting and dtypes of the inputs, modes of the modules.

    Inside of a transform of torch.func around the stack, some rules do not run.
    """
    modes = tuple(module.training for _, module in group.reading.modules)
    kind: Any = (modes, autocast_of(group.device), arguments.kind)
    if level():
        kind = (*kind, "in a transform")
    try:
        hash(kind)
    except TypeError:  # a key in the inputs that cannot be hashed
        kind = repr(kind)
    plan: Plan = group.plans.setdefault(kind, Plan())
    return plan


def _must_run_alone(group: Group) -> str | None:
    """Why members run one by one whatever the call; asked once of a structure."""
    if not group.reasons:
        group.reasons.append(_alone_for(group))
    return group.reasons[0]


def _alone_for(group: Group) -> str | None:
    if group.reading.hooks:
        where = group.reading.hooks[0] or "the module itself"
        return f"hooks ({where}) fire once a member"
    for path, module in group.reading.modules:
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse:
            return f"{path or 'the module itself'}: sparse gradients have no member axis"
    for index, name in group.own.keys() - set(group.numbers.wheres):
        where = group.reading.modules[index][0] or "the module itself"
        return f"{where}: a call gave members different values of the attribute {name!r}"
    return ONLY_MEMBER if len(group) == 1 else None


def _learn(plan: Plan, parts: Parts) -> None:
    plan.writes |= parts.writes
    plan.copies |= parts.changes
    plan.draws |= parts.draws > 0
    plan.conditions |= parts.conditions > 0
    plan.functions |= parts.replaced > 0
    plan.mended |= parts.mended
    plan.guarded |= parts.guarded
    plan.changed = 0
    plan.last = None
    plan.parts = parts.done
    plan.casts |= parts.cast
    plan.ruled = parts.ruled
    plan.fresh = False
