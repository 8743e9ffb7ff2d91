"""The compiled engine: graphs of the steps that repeat, checked against eager before they are used.

The first calls of a kind run eagerly; the next one runs both ways, and where the two agree the
graph serves from then on. What has no graph stays eager, which is said once and shown by
``explain``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.draws.mode import Key
from chimera.engine.graph import StepGraph, Uncapturable
from chimera.paths.notice import ChimeraWarning
from chimera.stack.batched import Call
from chimera.stack.each import Arguments
from chimera.stack.stack import Stack

# A kind of call pays for its compilation when it repeats; a last, short batch does not.
CALLS_BEFORE = 2
APART = 1e-3

Eager = Callable[[], Tensor]


@dataclass(slots=True)
class _Kind:
    """What is known of one kind of call."""

    calls: int = 0
    graph: StepGraph | None = None
    reason: str = ""


class Compiled:
    """Forward and backward of a step, by a compiled graph where there is one.

    Args:
        stack: the members.
        call: gives one member's loss.
    """

    def __init__(self, stack: Stack, call: Call) -> None:
        self._stack, self._call = stack, call
        self._kinds: dict[Any, _Kind] = {}
        self._said: set[str] = set()

    def run(self, given: Arguments, key: Key, eager: Eager) -> Tensor:
        """The losses ``[members]``; gradients are left on the parameters.

        Args:
            given: arguments of all members.
            key: of the draws; another seed than the stack's, or another first call, runs eagerly.
            eager: takes the same forward and backward eagerly.
        """
        if (key.seed, key.call) != (self._stack.seed, 0) or not isinstance(key.step, int):
            return eager()
        kind = self._kinds.setdefault(_kind_of(self._stack, given), _Kind())
        if kind.graph is not None:
            return kind.graph(given, key.step)
        kind.calls += 1
        if kind.reason or kind.calls <= CALLS_BEFORE:
            return eager()
        try:
            with warnings.catch_warnings():
                # Of torch's compiler about itself; a user can do nothing for it.
                warnings.simplefilter("ignore", DeprecationWarning)
                graph = StepGraph(self._stack, self._call, given)
                results = graph.results(given, key.step)
        except Exception as error:  # noqa: BLE001 - of recording or of the compiler: eager serves
            kind.reason = _why(error)
            self._say(kind.reason)
            return eager()
        losses = eager()
        apart = graph.apart(losses, results)
        if apart > APART:
            kind.reason = (
                f"the compiled step differs from eager by {apart:.1e} of the largest value"
            )
            self._say(kind.reason)
        else:
            kind.graph = graph
        return losses

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"the step runs eagerly: {reason}", ChimeraWarning, stacklevel=4)

    def notes(self) -> list[str]:
        """Whole sentences for ``explain``."""
        compiled = sum(kind.graph is not None for kind in self._kinds.values())
        notes = [f"engine compiled: {compiled} of {len(self._kinds)} kinds of call are compiled"]
        reasons = dict.fromkeys(kind.reason for kind in self._kinds.values() if kind.reason)
        return notes + [f"engine compiled: a kind of call runs eagerly: {why}" for why in reasons]


def _kind_of(stack: Stack, given: Arguments) -> Any:
    shapes = tuple(
        (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in given.leaves
    )
    modes = (*stack.modes().items(), stack.constants())
    state = tuple((p.dtype, p.device, p.requires_grad) for p in stack.parameters())
    return (given.shape, tuple(given.own), shapes, modes, state, torch.is_autocast_enabled("cpu"))


def _why(error: Exception) -> str:
    if isinstance(error, Uncapturable):
        return str(error)
    text = str(error).strip().split("\n")[0]
    return f"it could not be compiled ({type(error).__name__}: {text[:160]})"
