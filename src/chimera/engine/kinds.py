"""Kinds of call: what one recording serves, and what is known of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from chimera.engine.surroundings import Surroundings
from chimera.paths.hooks import any_hooks, hooks_of_all
from chimera.paths.notice import ChimeraWarning
from chimera.stack.each import Arguments


@dataclass(slots=True)
class Kind:
    """What is known of one kind of call.

    Attributes:
        name: the shapes of its arguments, for people and files.
        state: of the surroundings, in which it serves.
        calls: how many there were.
        graph: what takes such a call, once it serves.
        recorded: the same before it serves.
        choice: ``"eager"``, another engine, or empty where nothing is chosen yet.
        reason: why.
        seconds: of calls, by engine, where they are measured.
    """

    name: str = ""
    state: int = 0
    calls: int = 0
    graph: Any = None
    recorded: Any = None
    choice: str = ""
    reason: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)


class Kinds:
    """The kinds of the calls of one step, as they come, and why some run eagerly.

    Args:
        what: ``"the step"`` or ``"the call"``, for people.
        surroundings: what a recording holds for good.
    """

    def __init__(self, what: str, surroundings: Surroundings) -> None:
        self._what, self.surroundings = what, surroundings
        self._kinds: dict[Any, Kind] = {}
        self._said: set[str] = set()
        self._last: tuple[Any, Kind] | None = None

    def __iter__(self) -> Iterator[Kind]:
        """Each kind once, those that serve in the state that stands last."""
        now = self.surroundings.standing
        kinds = {id(kind): kind for kind in self._kinds.values()}.values()
        return iter(sorted(kinds, key=lambda kind: kind.state == now))

    def at(self, key: Any, given: Arguments, about: str = "") -> Kind:
        """The kind of a call.

        Args:
            key: all that a recording depends on but Python's values.
            given: its arguments.
            about: said before the shapes of these.
        """
        key = key, self.surroundings.state()
        if self._last is not None and self._last[0] == key:  # most often: no hash is needed
            return self._last[1]
        if key not in self._kinds:
            kind = self._kinds[key] = Kind(about + name_of(given), key[1])
            if key[1] < 0:
                self.refuse(kind, self.surroundings.reason)
        self._last = key, self._kinds[key]
        return self._last[1]

    def put(self, key: Any, kind: Kind) -> None:
        """Let ``kind`` be that of calls with another key, too."""
        self._kinds[key, kind.state], self._last = kind, None

    def refuse(self, kind: Kind, reason: str) -> None:
        """Leave a kind to eager, and say once why."""
        kind.choice, kind.reason = "eager", reason
        if reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"{self._what} runs eagerly: {reason}", ChimeraWarning, stacklevel=6)


def shapes_of(given: Arguments, own: Sequence[Tensor]) -> Any:
    """What a recording depends on: shapes, strides, dtypes, devices, gradients, hooks, autocast."""
    shapes = tuple(
        (leaf.shape, *_memory(leaf)) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in given.leaves
    )
    state = tuple(_memory(tensor) for tensor in own)
    device = own[0].device.type if own else "cpu"
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    cast = torch.get_autocast_dtype(device) if casts else None
    chosen = (
        cast,
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        any_hooks(own),
        hooks_of_all(),
    )
    return (given.shape, tuple(given.own), shapes, state, chosen)


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


def notes_of(engine: str, all_kinds: Iterable[Kind]) -> list[str]:
    """Whole sentences for ``explain``."""
    kinds = list(all_kinds)
    fast = sum(kind.graph is not None for kind in kinds)
    notes = [f"engine {engine}: {fast} of {len(kinds)} kinds of call are recorded"]
    told = {"eager": "runs eagerly", "": "runs eagerly so far"}
    return notes + [
        f"engine {engine}: {kind.name} {told.get(kind.choice, 'is ' + kind.choice)}: {kind.reason}"
        for kind in kinds
        if kind.reason
    ]
