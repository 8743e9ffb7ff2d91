"""The compiled engine against the eager one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.engine import compiled
from chimera.engine.graph import StepGraph

X, Y = torch.randn(4, 8, 6), torch.randint(0, 4, (4, 8))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(5, 4)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


class Asking(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


def trained(engine, nets, steps=6, **settings):
    stack = ch.Stack(nets, seed=3)
    optimizer = ch.optim.AdamW(stack, lr=[1e-3, 1e-2, 3e-2, 1e-2][: len(nets)])
    step = ch.train_step(stack, F.cross_entropy, optimizer, engine=engine, **settings)
    x, y = X[: len(nets)].to(next(stack.parameters()).dtype), Y[: len(nets)]
    losses = [step(ch.each(x), ch.each(y)) for _ in range(steps)]
    return stack, torch.stack(losses), step


@pytest.fixture(scope="module")
def both():
    """Six float64 steps of a net with batch norm and dropout, both ways; compiled once."""
    nets = ch.instances(lambda: Net().double(), 3)
    return trained("eager", nets, clip=1.0), trained("compiled", nets, clip=1.0)


def test_compiled_equals_eager_draws_buffers_and_frozen_rows(both):
    (eager, losses, _), (stack, others, step) = both
    assert "1 of 1 kinds of call are compiled" in str(ch.explain(step))
    torch.testing.assert_close(losses, others, rtol=1e-9, atol=1e-12)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(stack.state_dict()[name], tensor, rtol=1e-6, atol=1e-9)


def test_conditions_stay_eager_and_are_told():
    nets = ch.instances(Asking, 3)
    with pytest.warns(ch.ChimeraWarning, match="runs eagerly: members ask tensors"):
        _, losses, step = trained("compiled", nets)
    _, expected, _ = trained("eager", nets)
    assert torch.equal(losses, expected)
    assert "members ask tensors for Python values" in str(ch.explain(step))


def test_a_compiler_that_fails_leaves_eager(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    nets = ch.instances(Net, 3)
    with pytest.warns(ch.ChimeraWarning, match=r"could not be compiled \(RuntimeError: no C\+\+"):
        _, losses, _ = trained("compiled", nets)
    assert torch.equal(losses, trained("eager", nets)[1])


def test_a_graph_that_computes_something_else_is_not_used(monkeypatch):
    true = StepGraph.results

    def wrong(self, given, step):
        losses, first, *rest = true(self, given, step)
        return [losses, first * 1.01, *rest]

    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    monkeypatch.setattr(StepGraph, "results", wrong)
    nets = ch.instances(Net, 3)
    with pytest.warns(ch.ChimeraWarning, match="differs from eager"):
        _, losses, _ = trained("compiled", nets)
    assert torch.equal(losses, trained("eager", nets)[1])


@pytest.mark.parametrize("factory", [nn.LSTM, nn.GRU, nn.Linear])
def test_recorded_graphs_equal_eager(monkeypatch, factory):
    """Without the compiler: what is recorded is what runs."""

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = factory(6, 5), nn.Linear(5, 4)

        def forward(self, x):
            out = self.layer(x)
            return self.last(out if isinstance(out, torch.Tensor) else out[0])

    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    nets = ch.instances(lambda: Last().double(), 3)
    _, losses, step = trained("compiled", nets)
    assert "1 of 1 kinds" in str(ch.explain(step))
    torch.testing.assert_close(losses, trained("eager", nets)[1])


def test_frozen_members_unequal_members_and_other_shapes(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    nets = [Net(), nn.Linear(6, 4), Net(), nn.Linear(6, 4)]
    nets[0].first.weight.requires_grad_(False)
    _, expected, _ = trained("eager", nets)
    stack, losses, step = trained("compiled", nets)
    torch.testing.assert_close(losses, expected)
    assert torch.equal(stack[0].first.weight, nets[0].first.weight)
    for _ in range(compiled.CALLS_BEFORE + 2):
        step(X[0, :4], Y[0, :4])
    assert "2 of 2 kinds" in str(ch.explain(step))
    stack.eval()
    with torch.no_grad():
        assert torch.isfinite(stack(X[0])).all()


def test_an_unknown_engine_is_told():
    stack = ch.Stack(ch.instances(Net, 3))
    with pytest.raises(ValueError, match="engine must be one of eager, compiled, got 'fast'"):
        ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.1), engine="fast")
