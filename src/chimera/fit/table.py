"""The members' table before any figure: who they are, and their hyper-parameters."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from chimera.fit.columns import Columns
from chimera.fit.optimizers import own_settings
from chimera.fit.result import Row
from chimera.fit.settings import Limits
from chimera.optim.optimizer import Optimizer
from chimera.stack import Stack


def first_columns(
    stack: Stack, optimizer: Optimizer, rates: Tensor, clip: Limits, more: Columns
) -> list[Row]:
    """A row per member: its id, its group and its hyper-parameters.

    Raises ValueError where a name of ``more`` is one of the table's own.
    """
    limits = plain(clip)
    columns: dict[str, Sequence[Any]] = {
        "member": stack.members,
        "group": groups_of(stack),
        "lr": rates.tolist(),
        **own_settings(optimizer),
        **({"clip": limits} if isinstance(limits, list) else {}),
    }
    if not columns.keys().isdisjoint(more):
        twice = sorted(columns.keys() & more.keys())
        raise ValueError(f"hyperparameters: the table has a column {twice[0]} of its own")
    columns |= more
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def plain(limits: Limits) -> float | list[float] | None:
    """Limits as JSON can say them."""
    if isinstance(limits, (Sequence, Tensor)):
        return [float(limit) for limit in limits]
    return limits


def groups_of(stack: Stack) -> list[int]:
    """Each member's group, by position."""
    groups = [0] * len(stack)
    for number, (group, _) in enumerate(stack.parts()):
        for position in group.positions:
            groups[position] = number
    return groups


def first_of_groups(stack: Stack) -> list[int]:
    """The position of the first member of each group."""
    return [group.positions[0] for group, _ in stack.parts()]
