"""An optimizer's step as tensor operations alone, so that it can be recorded with what precedes it.

Contract: it moves parameters and state as ``Optimizer.step`` does, up to rounding. What may change
from step to step comes in as tensors (``factors``); what a recording holds for good is in ``kind``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.optim.arithmetic import wide
from chimera.optim.groups import Entry
from chimera.optim.optimizer import Optimizer
from chimera.optim.settings import Setting
from chimera.optim.state import empty_state

Number = float | Tensor


class Unrecordable(Exception):
    """A step that is more than tensor operations on what it is given; the text says why."""


@dataclass(slots=True)
class Share:
    """Parameters whose steps multiply with the same numbers.

    Attributes:
        entries: each with its place among the parameters.
        settings: of their group.
        fixed: numbers that hold until a setting changes ``[count]`` or ``[count, rows]``.
        steps: how many steps were taken, one number, or float64 ``[rows]`` on the CPU.
    """

    entries: list[tuple[int, Entry]]
    settings: dict[str, Setting]
    fixed: Tensor
    steps: Number

    def value(self, name: str) -> Number:
        """A setting, as one number or float64 ``[rows]`` on the CPU."""
        found = self.settings[name].value
        return found[self.entries[0][1].rows.members] if isinstance(found, Tensor) else found


class Recording(ABC):
    """The coming steps of an optimizer over the parameters that get a gradient.

    Args:
        optimizer: the optimizer; the state of its parameters is made where there is none yet.
        parameters: those that get a gradient.
        holds: rows may be frozen later; else another recording is needed then.

    Raises:
        Unrecordable: a parameter is complex, or members may not use it.
    """

    def __init__(
        self, optimizer: Optimizer, parameters: Sequence[Tensor], *, holds: bool = False
    ) -> None:
        self.optimizer, self._holds = optimizer, holds
        self._held: dict[int, tuple[Tensor | None, Tensor]] = {}
        self._flags: dict[int, bool] = {}
        self._told: tuple[Any, Any] = (None, None)
        self._places = {id(parameter): place for place, parameter in enumerate(parameters)}
        self._shares: list[Share] = []
        self._version: tuple[int, int] | None = None

    @property
    def shares(self) -> list[Share]:
        """The parameters by what they multiply with, as the settings are now."""
        version = (self.optimizer.version, self.optimizer.moved)
        if self._version != version:
            self._shares, self._version = self._shared(), version
        return self._shares

    def _shared(self) -> list[Share]:
        found: dict[Any, Share] = {}
        for number, group in enumerate(self.optimizer.groups):
            for entry in group.entries:
                place = self._places.get(id(entry.parameter))
                if place is None:
                    continue
                if entry.parameter.is_complex():
                    raise Unrecordable(f"{entry.name} is complex")
                if entry.source.partial:
                    raise Unrecordable(f"members may leave {entry.name} out of a step")
                if not entry.state:
                    entry.state = empty_state(entry, self.optimizer.tensors)
                steps = self._steps_of(entry)
                told = steps if isinstance(steps, float) else tuple(steps.tolist())
                rows = tuple(entry.rows.members.tolist())
                key = (number, rows, wide(entry.parameter), entry.parameter.device, told)
                if key not in found:
                    share = Share([(place, entry)], group.settings, torch.empty(0), steps)
                    share.fixed = packed(self._fixed(share), entry)
                    found[key] = share
                else:
                    found[key].entries.append((place, entry))
        return list(found.values())

    @property
    def kind(self) -> Any:
        """What a recording holds for good; another one needs another recording."""
        self.optimizer.settle()
        self._flags = {
            id(entry): self._holds or entry.frozen is not None
            for share in self.shares
            for _, entry in share.entries
        }
        return (
            type(self.optimizer),
            tuple(self.optimizer.options.items()),
            tuple(
                (
                    tuple((place, self._is_held(entry)) for place, entry in share.entries),
                    share.fixed.shape,
                    isinstance(share.steps, Tensor),
                    self._kind(share),
                )
                for share in self.shares
            ),
        )

    def state(self) -> list[Tensor]:
        """The tensors that a step changes in place, besides the parameters."""
        return [
            entry.state[name]
            for share in self.shares
            for _, entry in share.entries
            for name in self._changed(share)
        ]

    def state_names(self) -> list[str]:
        """What each tensor of ``state`` is called."""
        return [
            name for share in self.shares for _ in share.entries for name in self._changed(share)
        ]

    def factors(self) -> list[Tensor]:
        """What the coming step multiplies with: small tensors, the same shapes at every step."""
        found = []
        for share in self.shares:
            found += [share.fixed, packed(self._moving(share), share.entries[0][1])]
            for _, entry in share.entries:
                if self._is_held(entry):
                    found.append(self._mask(entry))
        return found

    def kind_at(self, token: Any) -> Any:
        """``kind``, looked at again only where settings, or ``token``, are others than before.

        Args:
            token: what the stack says of its frozen rows, and anything else.
        """
        seen = (token, self.optimizer.version, self.optimizer.moved)
        if self._told[0] != seen:
            self._told = seen, self.kind
        return self._told[1]

    def _is_held(self, entry: Entry) -> bool:
        """Whether rows of a parameter may be frozen, as of the last look at ``kind``."""
        known = self._flags.get(id(entry))
        return self._holds or entry.frozen is not None if known is None else known

    def _mask(self, entry: Entry) -> Tensor:
        """Which rows must not move ``[rows]``, bool; the same tensor as long as it holds."""
        rows, parameter = entry.frozen, entry.parameter
        kept = self._held.get(id(entry))
        if kept is None or kept[0] is not rows or kept[1].device != parameter.device:
            mask = torch.zeros(len(parameter), dtype=torch.bool, device=parameter.device)
            kept = (rows, mask if rows is None else mask.index_fill_(0, rows, True))
            self._held[id(entry)] = kept
        return kept[1]

    def apply(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        state: Sequence[Tensor],
        factors: Sequence[Tensor],
    ) -> None:
        """Take the step, in place.

        Args:
            parameters: as given to the constructor, or tensors that stand for them.
            gradients: of these; a parameter without one stays as it is.
            state: what ``state`` gave, or stand-ins.
            factors: what ``factors`` gave for this step.
        """
        given, own = iter(factors), iter(state)
        for share in self.shares:
            fixed, moving = next(given), next(given)
            for place, entry in share.entries:
                held = next(given) if self._is_held(entry) else None
                mine = [next(own) for _ in self._changed(share)]
                parameter, gradient = parameters[place], gradients[place]
                if gradient is None:
                    continue
                shape = (-1, *[1] * (parameter.dim() - 1))
                rows = [
                    row.view(shape) if row.dim() else row
                    for row in (*fixed.unbind(0), *moving.unbind(0))
                ]
                dtype = wide(entry.parameter)
                new = self._moved(share, parameter.to(dtype), gradient.to(dtype), mine, rows)
                if held is not None:
                    new = torch.where(held.view(shape), parameter, new)
                parameter.copy_(new)

    def done(self) -> None:
        """Note that a recorded step was taken."""
        self.optimizer.steps += 1
        for share in self.shares:
            share.steps = share.steps + 1

    def _kind(self, share: Share) -> Any:
        return ()

    def _steps_of(self, entry: Entry) -> Number:
        return 0.0

    @abstractmethod
    def _changed(self, share: Share) -> list[str]:
        """The names of the state that a step changes."""

    @abstractmethod
    def _fixed(self, share: Share) -> list[Number]:
        """Numbers of every step until a setting changes."""

    @abstractmethod
    def _moving(self, share: Share) -> list[Number]:
        """Numbers of the coming step."""

    @abstractmethod
    def _moved(
        self, share: Share, p: Tensor, g: Tensor, state: list[Tensor], rows: list[Tensor]
    ) -> Tensor:
        """The new value of a parameter; ``state`` is changed in place."""


def packed(numbers: Sequence[Number], entry: Entry) -> Tensor:
    """Numbers as one tensor ``[count]``, or ``[count, rows]`` where one differs between rows."""
    parameter = entry.parameter
    dtype = wide(parameter)
    if not any(isinstance(number, Tensor) for number in numbers):
        # A tensor made on a GPU would wait for all that the GPU was asked before.
        return torch.tensor(numbers, dtype=dtype).to(parameter.device, non_blocking=True)
    rows = [torch.as_tensor(n, dtype=torch.float64).expand(len(parameter)) for n in numbers]
    return torch.stack(rows).to(dtype).to(parameter.device, non_blocking=True)
