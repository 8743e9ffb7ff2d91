"""What one rank trains: its share of the members, and the settings that are theirs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chimera.fit.data import Data
from chimera.fit.prepare import float_dtype
from chimera.fit.settings import Settings
from chimera.fit.table import first_of_groups, groups_of
from chimera.paths.arguments import as_device
from chimera.scale.cost import step_cost
from chimera.scale.joined import local_rank
from chimera.scale.shares import shares
from chimera.stack import Stack


@dataclass(frozen=True)
class Share:
    """The members that a rank holds.

    Attributes:
        stack: of them alone, plain local tensors; their ids are those they have among all.
        settings: of them alone.
        rates: the learning rate, one or one a member of the share.
    """

    stack: Stack
    settings: Settings
    rates: float | Tensor

    def place(self, data: Data) -> Data:
        """The data where the share is, in its dtype."""
        return data.to(self.stack.device, float_dtype(self.stack))


def shares_of(stack: Stack, data: Data, settings: Settings, ranks: int) -> list[list[int]]:
    """For each rank the positions of its members, by what a step of theirs costs.

    Args:
        stack: of all members.
        data: on its device.
        settings: of the run.
        ranks: how many there are.
    """
    groups = groups_of(stack)
    x = data.train.x[: settings.batch_size]
    costs = [step_cost(stack[first], x) for first in first_of_groups(stack)]
    return shares([costs[group] for group in groups], groups, ranks)


def share_of(
    whole: Stack,
    positions: Sequence[int],
    settings: Settings,
    rates: float | Tensor,
    device: str | torch.device | None,
) -> Share:
    """The share of some members.

    Args:
        whole: all members, which stay as they are.
        positions: of the share's members among all.
        settings: of all members.
        rates: one, or one a member.
        device: where to train; where ``whole`` is unless given. ``"cuda"`` means the device of this
            process's number on its machine.
    """
    stack = Stack([whole[position] for position in positions], seed=whole.seed)
    stack.members = tuple(whole.members[position] for position in positions)
    stack.calls, stack._evaluations = whole.calls, whole._evaluations
    if device is not None:
        place = as_device("device", device)
        if place.index is None and place.type != "cpu":
            place = as_device("device", f"{place.type}:{local_rank()}")
        stack = stack.to(place)
    if isinstance(rates, Tensor):
        rates = rates[list(positions)]
    names = [parameter.name for parameter in stack.layout()]
    return Share(stack, settings.of_share(positions, len(whole), names), rates)
