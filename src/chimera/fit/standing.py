"""Where a run stands, with all that its next step depends on."""

import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from chimera.fit.quarantine import Death
from chimera.stack.carry import GroupState

_A_TENSOR = 300
"""Bytes of a file that its name, shape, offsets and digest take."""
_FILES, _BLOCK = 4, 4096
"""Files of a checkpoint, and the bytes by which a disk gives room."""


@dataclass(frozen=True)
class Standing:
    """A run between two steps, on the CPU and independent of it.

    Attributes:
        config: what the run was told, as ``config.json`` has it.
        step: optimizer steps taken.
        epoch: epochs whose steps and figures are complete.
        batch: steps taken in the epoch that is on its way.
        seconds: the run so far, in seconds.
        train_seconds: how much of it went to training steps.
        calls: the stack's counts of training and of evaluation calls, which key its own draws.
        groups: what the members carry.
        optimizer: for each group, the optimizer's tensors by their name and the parameter's below
            the group: ``[members of the group, ...]``, or one number.
        members: the ids in the order of ``losses`` and ``figures``.
        losses: the sum over the epoch's samples of each member's losses ``[members]``, float64.
        figures: what every complete epoch recorded ``[members, epochs, figures]``, float64.
        deaths: of the members that broke down.
    """

    config: dict[str, Any]
    step: int
    epoch: int
    batch: int
    seconds: float
    train_seconds: float
    calls: tuple[int, int]
    groups: list[GroupState]
    optimizer: list[dict[tuple[str, str], Tensor]]
    members: list[int]
    losses: Tensor
    figures: Tensor
    deaths: list[Death]

    @property
    def bytes(self) -> int:
        """About how much room its files take: the tensors, what is said of each, whole blocks."""
        tensors = [self.losses, self.figures]
        for group, kept in zip(self.groups, self.optimizer, strict=True):
            tensors += [*group.tensors.values(), *kept.values()]
        said = _A_TENSOR * len(tensors) + len(json.dumps(self.config))
        return sum(tensor.nbytes for tensor in tensors) + said + _FILES * _BLOCK
