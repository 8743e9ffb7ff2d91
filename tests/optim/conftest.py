"""A stack reduced to what an optimizer reads of it: stacked parameters, gradients given by hand."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn


@dataclass(frozen=True)
class Stacked:
    name: str
    parameter: nn.Parameter
    members: torch.Tensor
    frozen: torch.Tensor | None = None
    partial: bool = False


class Layout:
    """Parameters of some shapes for members in groups, as ``Stack.layout()`` lays them out."""

    def __init__(self, groups, shapes, dtype=torch.float64, frozen=None, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.size = sum(map(len, groups))
        self.found = [
            Stacked(
                f"groups.{g}.layers.{i}.{'bias' if len(shape) == 1 else 'weight'}",
                nn.Parameter(torch.randn(len(members), *shape, dtype=dtype, generator=generator)),
                torch.tensor(members),
                None if frozen is None else torch.tensor([m in frozen for m in members]),
            )
            for g, members in enumerate(groups)
            for i, shape in enumerate(shapes)
        ]

    def __len__(self):
        return self.size

    def layout(self):
        return self.found

    def alone(self, member):
        """The member's own parameters, by name: copies."""
        return {
            one.name: nn.Parameter(one.parameter[row].detach().clone())
            for one in self.found
            for row, position in enumerate(one.members.tolist())
            if position == member
        }

    def rows(self, member, of=lambda parameter: parameter.detach()):
        return {
            one.name: of(one.parameter)[row]
            for one in self.found
            for row, position in enumerate(one.members.tolist())
            if position == member
        }


@pytest.fixture(scope="session")
def layout_class():
    return Layout
