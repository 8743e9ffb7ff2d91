"""The parameters of a Stack, with the members that each row of them belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from chimera.stack.group import Group


@dataclass(frozen=True, slots=True)
class StackedParameter:
    """A parameter of a Stack.

    Attributes:
        name: as in ``named_parameters()``, ``groups.<g>.<path>``.
        parameter: ``[members of the group, ...]``.
        members: positions in the stack of the group's members ``[members of the group]``, int64.
    """

    name: str
    parameter: nn.Parameter
    members: Tensor
    _group: Group = field(repr=False)
    _home: tuple[nn.Module, str] = field(repr=False)

    @property
    def frozen(self) -> Tensor | None:
        """Which rows must not move now ``[members of the group]``, bool; None where all may.

        The same tensor as long as it holds.
        """
        return self._group.frozen(self._group.place_of(self._home))

    @property
    def partial(self) -> bool:
        """Whether a gradient may leave rows out, as ``absent`` tells."""
        return self._group.partial


def layout_of(
    groups: Sequence[Group], named: Iterable[tuple[str, nn.Parameter]]
) -> list[StackedParameter]:
    """The stacked parameters of groups, group by group; ``named`` are the stack's."""
    names = {id(parameter): name for name, parameter in named}
    found = []
    for group in groups:
        positions = torch.tensor(group.positions)
        for home, tensor in zip(group.homes, group.tensors(), strict=True):
            if isinstance(tensor, nn.Parameter):
                name = names[id(tensor)]
                found.append(StackedParameter(name, tensor, positions, group, home))
    return found
