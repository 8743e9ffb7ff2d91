"""Members with a sparse buffer are trained; what would write them down says so before it starts."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import chimera as ch


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("links", torch.eye(4).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.sparse.mm(self.links, x.T).T)
        return y


def test_a_sparse_buffer(tmp_path: Path) -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    data = ch.data(x, (x[:, 0] > 0).long())
    options = {"epochs": 2, "lr": 0.1}
    plain = ch.fit(ch.instances(nn.Linear, 3, 4, 2, seed=0), data, **options)
    members = ch.instances(Graph, 3, seed=0)
    for member, linear in zip(members, ch.instances(nn.Linear, 3, 4, 2, seed=0), strict=True):
        member.layer.load_state_dict(linear.state_dict())
    sparse = ch.fit(members, data, **options)
    for one, other in zip(sparse.stack, plain.stack, strict=True):
        torch.testing.assert_close(one.layer.weight, other.weight)
    with pytest.raises(ValueError, match="out= writes the members down, and links is sparse"):
        ch.fit(members, data, out=tmp_path / "run", **options)
