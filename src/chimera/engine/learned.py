"""How each group of a Stack runs a call, found before the call runs as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from chimera.draws.mode import Key
from chimera.stack.batched import Call
from chimera.stack.each import Arguments, index_of
from chimera.stack.group import Group
from chimera.stack.plan import ONLY_MEMBER, plan_of
from chimera.stack.stack import Stack


def learn(
    stack: Stack,
    call: Call,
    given: Arguments,
    key: Key,
    aside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Find how each group runs such a call by two of its members, where it is not known.

    The only member of a group stands for two: eager runs it by itself, a recording as any other.

    Args:
        stack: the members; they stay as they are.
        call: what to do with one member.
        given: arguments of all members.
        key: of the draws.
        aside: puts back what such a call changes beside the members.
    """
    plans = [(group, plan_of(group, given)) for group, _ in stack.parts()]
    new = [group for group, p in plans if p.fresh and p.alone in (None, ONLY_MEMBER)]
    if new:
        with aside():
            _learn(stack, new, call, given, key)


def _learn(stack: Stack, groups: Sequence[Group], call: Call, given: Arguments, key: Key) -> None:
    for group in groups:
        few = (group.positions * 2)[:2]
        small = Stack([stack[position] for position in few], seed=stack.seed)
        small.members = tuple(stack.members[position] for position in few)
        mine = given.take(index_of(few, group.device))
        with torch.no_grad():
            small.run(call, mine, key)
        ((twin, _),) = small.parts()
        group.plans.update(twin.plans)
