"""Which engine takes a kind of step: rules that see the step and the run, never a clock.

``Auto`` was fitted to measurements (``benchmarks/engines.py``, ``benchmarks/results/engines.txt``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from chimera.engine.graph import StepGraph
from chimera.engine.kinds import Kind

CALLS_BEFORE = 2
# What recording and compiling take, in seconds: so much at least, and more for every operation.
COMPILING, COMPILING_OPERATION = 3.0, 0.015
# What a compiled step saves, in seconds, for every operation: its dispatch by Python and autograd.
SAVED_OPERATION = 10e-6
# No step was seen that saves more than this by being compiled: so short a run is not recorded.
FEWEST = 1500


ENGINES = ("eager", "compiled", "auto")


class Rule(ABC):
    """When a kind of step is recorded, and what makes it run."""

    name: str

    @abstractmethod
    def ready(self, kind: Kind, expected: int | None) -> bool:
        """Whether to record now; where never, the kind's choice and reason say so."""

    @abstractmethod
    def worth(self, kind: Kind, graph: StepGraph, expected: int | None) -> bool:
        """Whether what was recorded is to be compiled now."""


class Always(Rule):
    """Every kind that repeats."""

    name = "compiled"

    def ready(self, kind: Kind, expected: int | None) -> bool:
        if expected is None:
            return kind.calls > CALLS_BEFORE
        if expected <= CALLS_BEFORE:
            kind.choice, kind.reason = "eager", f"{expected} steps of this kind do not pay for it"
            return False
        return True

    def worth(self, kind: Kind, graph: StepGraph, expected: int | None) -> bool:
        kind.reason = "as asked"
        return True


class Auto(Rule):
    """Where the steps save more than compiling takes.

    Where it is not known how many will come, a kind is compiled when it has been called as often
    as would have paid for it: that is never worse than twice the better of both.
    """

    name = "auto"

    def ready(self, kind: Kind, expected: int | None) -> bool:
        if kind.recorded is not None:
            return kind.calls >= pays_after(kind.recorded.operations)
        if expected is None:
            return kind.calls >= FEWEST
        if expected < FEWEST:
            kind.choice, kind.reason = "eager", f"{expected} steps do not pay for a compilation"
            return False
        return True

    def worth(self, kind: Kind, graph: StepGraph, expected: int | None) -> bool:
        needed = pays_after(graph.operations)
        told = f"a step of {graph.operations} operations pays for its compilation after {needed}"
        if expected is None:
            kind.reason = f"{told} steps; {kind.calls} were taken"
            return kind.calls >= needed
        kind.reason = f"{told} steps; the run has {expected}"
        if expected < needed:
            kind.choice = "eager"
        return expected >= needed


def pays_after(operations: int) -> int:
    """After how many steps of so many recorded operations compiling has paid."""
    return round((COMPILING + COMPILING_OPERATION * operations) / (SAVED_OPERATION * operations))


def as_engine(engine: object) -> str:
    """The name of an engine.

    Raises:
        ValueError: it is none.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    return str(engine)


def rule_of(engine: str) -> Rule | None:
    """The rule of an engine; None for eager."""
    return {"eager": None, "compiled": Always(), "auto": Auto()}[engine]
