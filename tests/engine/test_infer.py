"""Inference by recordings against the module itself."""

import pytest
import torch
from torch import nn

import chimera as ch

X = torch.randn(8, 6)


class Net(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.drop, self.last = nn.Dropout(dropout), nn.Linear(5, 4)

    def forward(self, x, scale=1.0):
        hidden = torch.tanh(self.norm(self.first(x)))
        return {"out": self.last(self.drop(hidden)) * scale, "hidden": hidden, "name": "net"}


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)


def same(one, other):
    assert one.keys() == other.keys()
    assert one["name"] == other["name"]
    for name in ("out", "hidden"):
        assert not one[name].requires_grad
        torch.testing.assert_close(one[name], other[name])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", ["stack", "network"])
def test_recorded_calls_equal_the_module(recorded, kind, train):
    nets = ch.instances(Net, 3)
    module, twin = (ch.Stack(nets) if kind == "stack" else ch.Stack(nets)[1] for _ in range(2))
    module.train(train), twin.train(train)
    call = ch.infer(module, engine="compiled")
    for _ in range(6):
        x = torch.randn(8, 6)
        with torch.no_grad():
            expected = twin(x, scale=2.0)
        same(call(x, scale=2.0), expected)
    assert call.settled
    assert "1 of 1 kinds of call are recorded" in str(ch.explain(call))
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], tensor)
    if kind == "stack":
        assert module.calls == twin.calls


def test_new_weights_are_seen(recorded):
    stack = ch.Stack(ch.instances(Net, 3)).eval()
    call = ch.infer(stack, engine="compiled")
    for _ in range(4):
        call(X)
    stack[1] = Net().eval()
    with torch.no_grad():
        same(call(ch.each(X.expand(3, 8, 6))), stack(X))
        same(call(X), stack(X))


def test_a_compiled_call():
    stack = ch.Stack(ch.instances(Net, 3)).eval()
    call = ch.infer(stack, engine="compiled", calls=100)
    with torch.no_grad():
        same(call(X), stack(X))
        same(call(X), stack(X))
    assert "1 of 1 kinds of call are recorded" in str(ch.explain(call))


@pytest.mark.parametrize("kind", ["stack", "network"])
def test_draws_stay_eager_and_are_counted(recorded, kind):
    nets = ch.instances(Net, 3, dropout=0.5)
    module, twin = (ch.Stack(nets, seed=2) if kind == "stack" else nets[0] for _ in range(2))
    call = ch.infer(module, engine="compiled")
    torch.manual_seed(0)
    with pytest.warns(ch.ChimeraWarning, match="the call runs eagerly: it draws random numbers"):
        found = [call(X)["out"] for _ in range(4)]
    torch.manual_seed(0)
    with torch.no_grad():
        expected = [twin(X)["out"] for _ in range(4)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_short_runs_are_eager_and_mistakes_told():
    stack = ch.Stack(ch.instances(Net, 3)).eval()
    call = ch.infer(stack, calls=10)
    call(X)
    assert call.settled
    assert "10 calls do not pay" in str(ch.explain(call))
    with pytest.raises(TypeError, match="got int"):
        ch.infer(3)
    with pytest.raises(ValueError, match="calls is how many"):
        ch.infer(stack, calls=0)
    with pytest.raises(TypeError, match="this is one network"):
        ch.infer(stack[0])(ch.each(X))


def test_hooks_of_a_stack_fire_at_every_call(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    stack, x = ch.Stack([nn.Linear(4, 2) for _ in range(3)]).eval(), torch.randn(5, 4)
    call, seen = ch.infer(stack, engine="compiled"), []
    for _ in range(4):
        call(x)
    assert "is compiled" in str(ch.explain(call))
    stack.register_forward_hook(lambda _, args, out: seen.append(1) or out * 0 + 5)
    for _ in range(4):
        assert (call(x) == 5).all()
    assert len(seen) == 4
    assert "the stack has hooks of its own" in str(ch.explain(call))
