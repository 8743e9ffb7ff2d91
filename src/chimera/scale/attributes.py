"""Tensors that a forward keeps in attributes, which are then of one rank's rows alone.

Outputs are put together from all ranks; what a module keeps beside them (an auxiliary loss, the
last features) is not. One that is no row for each input row and belongs to the graph is meant for a
loss, whose gradient would be another: refused. Others are told.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chimera.paths.nest import flatten, leaf_names
from chimera.paths.notice import ChimeraWarning
from chimera.paths.structure import written_attributes
from chimera.paths.walk import join


def users_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a user's class, less what engines and recurrent layers note there."""
    return {
        name: value
        for name, value in written_attributes(module).items()
        if not name.startswith("__")
    }


def attribute_tensors(net: nn.Module) -> dict[str, Tensor]:
    """The tensors in plain attributes of all modules, and in containers there, by name."""
    found = {}
    for path, module in net.named_modules():
        for name, value in users_attributes(module).items():
            leaves, shape = flatten(value, objects=True)
            if any(isinstance(leaf, Tensor) for leaf in leaves):
                for leaf, place in zip(leaves, leaf_names(shape, join(path, name)), strict=True):
                    if isinstance(leaf, Tensor):
                        found[place] = leaf
    return found


@dataclass(frozen=True)
class Kept:
    """A tensor in an attribute that depends on which rows ran.

    Attributes:
        name: the attribute's, with the module's path.
        by_rows: whether its shape goes with the number of rows.
    """

    name: str
    by_rows: bool


class KeptAttributes:
    """Looks after calls at what they kept, once each."""

    def __init__(self) -> None:
        self._left: dict[str, Kept] = {}
        self._known: set[str] = set()

    def add(self, found: Iterable[Kept]) -> None:
        """Look at these after the next call with gradients."""
        new = [kept for kept in found if kept.name not in self._known]
        self._left |= {kept.name: kept for kept in new}
        self._known.update(kept.name for kept in new)

    def look(self, net: nn.Module) -> None:
        """Refuse or tell what a call has just kept.

        Raises ValueError for a tensor that belongs to the graph and has no rows.
        """
        if not self._left or not torch.is_grad_enabled():
            return
        there = attribute_tensors(net)
        left, self._left = self._left, {}
        for name, kept in left.items():
            if not kept.by_rows and name in there and there[name].requires_grad:
                raise ValueError(
                    f"distribute: {name!r} is computed of the rows of this rank alone, and the "
                    "gradients of a loss that uses it would not be the whole batch's; return a "
                    "number for each row instead, and put the loss together outside (.detach() "
                    "what is only looked at)"
                )
        if dist.get_rank() == 0:
            listed = ", ".join(repr(name) for name in list(left)[:8])
            more = f" and {len(left) - 8} more" if len(left) > 8 else ""
            warnings.warn(
                f"distribute: forward keeps {listed}{more}, on each rank of its own rows alone; "
                "outputs are put together from all ranks, attributes are not",
                ChimeraWarning,
                stacklevel=6,
            )
