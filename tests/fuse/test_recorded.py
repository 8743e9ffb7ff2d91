"""What the rule decides while an engine records."""

import pytest
import torch
from torch import nn

import chimera as ch


def branch():
    return nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 32))


@pytest.fixture
def graphs(monkeypatch):
    """The recordings that torch's compiler was given; each runs as recorded."""
    made = []

    def compiled(graph, **_):
        made.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", compiled)
    return made


def products(graph):
    kinds = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm)
    return sum(getattr(n.target, "overloadpacket", None) in kinds for n in graph.graph.nodes)


@pytest.mark.parametrize("count", [24, 160])
def test_a_recording_does_not_grow_with_large_branches(graphs, count):
    torch.manual_seed(0)
    net = ch.Parallel(*(branch() for _ in range(count)))
    fast, x = ch.fuse(net), torch.randn(256, 512)
    y = torch.zeros(256, 32 * count)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (net, fast)]
    ours = ch.train_step(fast, nn.functional.mse_loss, optimizers[1], engine="compiled")
    plain = ch.train_step(net, nn.functional.mse_loss, optimizers[0], engine="eager")
    for _ in range(4):
        torch.testing.assert_close(ours(x, y), plain(x, y))
    assert "is compiled" in str(ch.explain(ours))
    assert len(graphs) == 1
    assert products(graphs[0]) < 12
    for one, two in zip(fast.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one, two)
