"""Branches of complex layers, fused: outputs and gradients are those of the plain network."""

import pytest
import torch
from torch import nn

import chimera as ch

KIND = torch.complex128


def branch(width: int) -> nn.Module:
    """Three layers, so that enough of them are there to fuse."""
    return nn.Sequential(
        nn.Linear(8, width, dtype=KIND),
        nn.Tanh(),
        nn.Linear(width, width, dtype=KIND),
        nn.Linear(width, 4, dtype=KIND),
    )


@pytest.mark.parametrize("widths", [(4,), (4, 5, 6)])
def test_complex_layers(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    branches = [branch(widths[i % len(widths)]) for i in range(24)]
    plain = ch.Parallel(*branches, combine="stack")
    fused = ch.fuse(plain)
    x = torch.randn(5, 8, dtype=KIND)
    direction = torch.randn(24, 5, 4, dtype=KIND)
    found = []
    for net in (plain, fused):
        mine = x.clone().requires_grad_()
        y = net(mine)
        (y * direction.view(y.shape)).real.sum().backward()
        found.append([y, mine.grad, *(parameter.grad for parameter in net.parameters())])
    assert "as one" in str(ch.explain(fused))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
