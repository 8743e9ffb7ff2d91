"""Kinds of call: what one recording serves, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from chimera.stack.each import Arguments


@dataclass(slots=True)
class Kind:
    """What is known of one kind of call.

    Attributes:
        name: the shapes of its arguments, for people and files.
        calls: how many there were.
        graph: what takes such a call, once it serves.
        recorded: the same before it serves.
        choice: ``"eager"``, another engine, or empty where nothing is chosen yet.
        reason: why.
        seconds: of calls, by engine, where they are measured.
    """

    name: str = ""
    calls: int = 0
    graph: Any = None
    recorded: Any = None
    choice: str = ""
    reason: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)


def shapes_of(given: Arguments, own: Sequence[Tensor]) -> Any:
    """What a recording depends on: shapes, strides, dtypes, devices, gradients, autocast."""
    shapes = tuple(
        (leaf.shape, *_memory(leaf)) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in given.leaves
    )
    state = tuple(_memory(tensor) for tensor in own)
    device = own[0].device.type if own else "cpu"
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return (given.shape, tuple(given.own), shapes, state, cast)


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """How compiled code reads a tensor; strides of axes of length 1 say nothing."""
    strided = tensor.layout is torch.strided and not tensor.is_contiguous()
    strides = tensor.stride() if strided else tensor.layout
    return tensor.dtype, tensor.device, tensor.requires_grad, strides


def name_of(given: Arguments) -> str:
    """The shapes of the arguments, in a line."""
    return ", ".join(
        "x".join(map(str, leaf.shape)) or "number" if isinstance(leaf, Tensor) else f"{leaf!r:.20}"
        for leaf in given.leaves
    )


def notes_of(engine: str, kinds: Sequence[Kind]) -> list[str]:
    """Whole sentences for ``explain``."""
    fast = sum(kind.graph is not None for kind in kinds)
    notes = [f"engine {engine}: {fast} of {len(kinds)} kinds of call are recorded"]
    told = {"eager": "runs eagerly", "": "runs eagerly so far"}
    return notes + [
        f"engine {engine}: {kind.name} {told.get(kind.choice, 'is ' + kind.choice)}: {kind.reason}"
        for kind in kinds
        if kind.reason
    ]
