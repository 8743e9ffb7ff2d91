"""Kinds of step: what one recording serves, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.engine.graph import StepGraph
from chimera.stack.each import Arguments
from chimera.stack.stack import Stack


@dataclass(slots=True)
class Kind:
    """What is known of one kind of step.

    Attributes:
        calls: how many there were.
        graph: what takes such a step, once it serves.
        recorded: the same before it serves.
        choice: ``"eager"``, another engine, or empty where nothing is chosen yet.
        reason: why.
        seconds: of a step, by engine, where they were measured.
    """

    calls: int = 0
    graph: StepGraph | None = None
    recorded: StepGraph | None = None
    choice: str = ""
    reason: str = ""
    seconds: dict[str, float] | None = None


def kind_of(stack: Stack, given: Arguments) -> Any:
    """What a recording depends on: shapes, modes, dtypes, frozen rows, autocast."""
    shapes = tuple(
        (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in given.leaves
    )
    modes = (*stack.modes().items(), stack.constants())
    state = tuple((p.dtype, p.device, p.requires_grad) for p in stack.parameters())
    return (given.shape, tuple(given.own), shapes, modes, state, torch.is_autocast_enabled("cpu"))
