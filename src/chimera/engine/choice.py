"""Which engine takes a kind of call: rules that see the call and the run, never a clock.

``Auto`` estimates from counts of the recorded operations; ``benchmarks/engines.py`` holds the
estimate against what compiling costs and saves. Only ``Measured`` looks at a clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from chimera.engine.captured import as_recorded, captured
from chimera.engine.compiled import compiled
from chimera.engine.cost import Cost
from chimera.engine.graph import Compile
from chimera.engine.kinds import Kind

ENGINES = ("eager", "compiled", "graphed", "auto", "measure")
CALLS_BEFORE = 2
# What recording and compiling take, in seconds: the compiler's own start, and every operation that
# is written into a kernel.
COMPILING, COMPILING_PASS = 3.0, 0.042
# What a compiled step saves, in seconds: the dispatch of such an operation by Python and autograd,
# and its own way through memory, a byte.
SAVED_PASS, SAVED_BYTE = 8e-6, 3e-12
# A shorter run never pays: it is not even recorded.
FEWEST = 1000
NEVER = 10**12


class Rule(ABC):
    """When a kind of call is recorded, and what makes it run."""

    name: str
    makes = "compiled"
    clocked = False

    @abstractmethod
    def ready(self, kind: Kind, expected: int | None) -> bool:
        """Whether to record now; where never, the kind's choice and reason say so."""

    def worth(self, kind: Kind, cost: Cost, expected: int | None) -> bool:
        """Whether what was recorded, of such a cost, is to run now."""
        kind.reason = "as asked"
        return True

    def compiler(self) -> Compile:
        """What makes a recording run."""
        return compiled


class Always(Rule):
    """Every kind that repeats."""

    name = "compiled"

    def ready(self, kind: Kind, expected: int | None) -> bool:
        if expected is None:
            return kind.calls > CALLS_BEFORE
        if expected <= CALLS_BEFORE:
            kind.choice, kind.reason = "eager", f"{expected} calls do not pay for it"
            return False
        return True


class Graphed(Always):
    """Every kind that repeats, in a CUDA graph of its recorded operations."""

    name = makes = "graphed"

    def compiler(self) -> Compile:
        return captured(as_recorded)


class Measured(Always):
    """Every kind that repeats: a few calls of each candidate are timed, and the faster stays."""

    name = "measure"
    clocked = True

    def __init__(self, makes: str) -> None:
        self.makes = makes

    def compiler(self) -> Compile:
        return captured(as_recorded) if self.makes == "graphed" else compiled


class Auto(Rule):
    """Where the calls save more than compiling takes.

    Where it is not known how many will come, a kind is compiled when it has been called as often
    as would have paid for it: that is never worse than twice the better of both.
    """

    name = "auto"

    def ready(self, kind: Kind, expected: int | None) -> bool:
        if kind.recorded is not None:
            return kind.calls >= pays_after(kind.recorded.cost)
        if expected is None:
            if kind.calls < FEWEST:
                kind.reason = f"fewer than {FEWEST} calls do not pay for a compilation"
            return kind.calls >= FEWEST
        if kind.state:
            kind.choice = "eager"
            kind.reason = "Python's values changed, and may again before compiling has paid"
            return False
        if expected < FEWEST:
            kind.choice, kind.reason = "eager", f"{expected} calls do not pay for a compilation"
            return False
        return True

    def worth(self, kind: Kind, cost: Cost, expected: int | None) -> bool:
        needed = pays_after(cost)
        told = f"{cost.operations} operations pay for their compilation after {needed} calls"
        if expected is None:
            kind.reason = f"{told}; there were {kind.calls}"
            return kind.calls >= needed
        kind.reason = f"{told}; the run has {expected}"
        if expected < needed:
            kind.choice = "eager"
        return expected >= needed


class AutoOnGpu(Graphed):
    """A CUDA graph of what repeats: capturing costs no more than a few calls."""

    name = "auto"

    def worth(self, kind: Kind, cost: Cost, expected: int | None) -> bool:
        kind.reason = f"one launch takes {cost.operations} operations"
        return True


def pays_after(cost: Cost) -> int:
    """After how many calls of what was recorded compiling has paid."""
    saved = SAVED_PASS * cost.passes + SAVED_BYTE * cost.nbytes
    compiling = COMPILING + COMPILING_PASS * cost.passes
    return max(FEWEST, round(compiling / saved)) if saved else NEVER


def as_engine(engine: object) -> str:
    """The name of an engine.

    Raises:
        ValueError: it is none.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    return str(engine)


def rule_of(engine: str, device: torch.device) -> Rule | None:
    """The rule of an engine on a device; None for eager.

    Raises:
        ValueError: there is no such engine, or it needs another device.
    """
    on_gpu = device.type == "cuda"
    match as_engine(engine):
        case "eager":
            return None
        case "compiled":
            return Always()
        case "auto":
            return AutoOnGpu() if on_gpu else Auto()
        case "measure":
            return Measured("graphed" if on_gpu else "compiled")
    if not on_gpu:
        raise ValueError(
            f"engine='graphed' captures CUDA graphs, and the parameters are on {device}; "
            "move them to a GPU, or leave the choice to engine='auto'"
        )
    return Graphed()
