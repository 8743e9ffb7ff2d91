"""What a stack found out about how to run its calls, as JSON: a run started again does the same.

Which way a group runs a call (as one, with keys for its draws, in parts, one by one) is found by
trying, and may depend on data seen long ago. The ways round differently, so a run that goes on
takes over what was found.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from chimera.stack.plan import Plan
from chimera.stack.stack import Stack

Choices = list[dict[str, dict[str, Any]]]


def choices(stack: Stack) -> Choices:
    """For each group: by the kind of call, the fields of its ``Plan``."""
    return [
        {repr(kind): _fields(plan) for kind, plan in group.plans.items()} for group in stack._groups
    ]


def _fields(plan: Plan) -> dict[str, Any]:
    """What of a plan decides how a call runs; ``seen`` spares copies alone."""
    return {name: value for name, value in dataclasses.asdict(plan).items() if name != "seen"}


def choose(stack: Stack, found: Choices) -> None:
    """Let ``stack`` run its calls as ``choices`` said, one table a group.

    Raises:
        TypeError, ValueError: ``found`` is not of that form; nothing is changed then.
    """
    remembered = [
        _Remembered({kind: Plan(**fields) for kind, fields in plans.items()}) for plans in found
    ]
    for group, plans in zip(stack._groups, remembered, strict=True):
        group.plans = plans


class _Remembered(dict[Any, Any]):
    """Plans by kind of call; a kind that is new here takes the plan remembered for it."""

    def __init__(self, plans: dict[str, Plan]) -> None:
        super().__init__()
        self._plans = plans

    def setdefault(self, kind: Any, default: Any = None) -> Any:
        if kind not in self:
            self[kind] = self._plans.get(repr(kind), default)
        return self[kind]
