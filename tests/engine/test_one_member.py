"""Groups of one member: recorded as any other."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch


class Net(nn.Module):
    def __init__(self, hidden=5):
        super().__init__()
        self.first, self.norm = nn.Linear(6, hidden), nn.BatchNorm1d(hidden)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(hidden, 4)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


X, Y = torch.randn(8, 6, dtype=torch.float64), torch.randint(0, 4, (8,))


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)


def trained(engine, hidden, own=False, **settings):
    torch.manual_seed(0)
    stack = ch.Stack([Net(size).double() for size in hidden], seed=3)
    step = ch.train_step(
        stack, F.cross_entropy, ch.optim.AdamW(stack, lr=1e-2), engine=engine, **settings
    )
    x, y = X, Y
    if own:
        x, y = (ch.each(t.expand(len(hidden), *t.shape).contiguous()) for t in (X, Y))
    return torch.stack([step(x, y) for _ in range(6)]), stack, step


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("hidden", [[5], [5, 7], [5, 7, 5]])
def test_a_step_is_that_of_eager(hidden, own):
    expected, stack, _ = trained("eager", hidden, own)
    found, other, step = trained("compiled", hidden, own)
    assert "is compiled" in ch.explain(step).notes[-1]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    for name, tensor in stack.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-6, atol=1e-9)


def test_inference_is_that_of_eager():
    stack = ch.Stack([Net().double()]).eval()
    call = ch.infer(stack, engine="compiled")
    for _ in range(5):
        torch.testing.assert_close(call(X), stack(X))
    assert "is compiled" in ch.explain(call).notes[-1]


def test_what_draws_is_called_eagerly_by_inference():
    stack = ch.Stack([Net().double()], seed=3)
    call = ch.infer(stack, engine="compiled")
    with pytest.warns(ch.ChimeraWarning, match="it draws random numbers"):
        _ = [call(X) for _ in range(4)]
    assert stack.calls == 4


def test_hooks_are_left_to_eager():
    net = nn.Linear(6, 4).double()
    net.register_forward_hook(lambda module, args, output: output * 2)
    stack = ch.Stack([net])
    step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.1), engine="compiled")
    with pytest.warns(ch.ChimeraWarning, match="hooks"):
        losses = [step(X, Y) for _ in range(4)]
    assert losses[0].item() == pytest.approx(F.cross_entropy(net(X), Y).item())


class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(6, 4)

    def forward(self, x):
        return self.own(x) if x.sum() > -1e9 else x


def test_conditions_are_left_to_eager():
    stack = ch.Stack([Asking().double()])
    step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.1), engine="compiled")
    with pytest.warns(ch.ChimeraWarning, match="a tensor for a Python value"):
        _ = [step(X, Y) for _ in range(4)]


class Normalizing(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4).double().requires_grad_(False)

    def forward(self, output, target):
        return F.cross_entropy(self.norm(output), target)


def test_statistics_of_the_loss_move_once_a_step():
    found = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        stack, loss = ch.Stack([nn.Linear(6, 4).double()]), Normalizing()
        step = ch.train_step(stack, loss, ch.optim.SGD(stack, lr=0.1), engine=engine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ch.ChimeraWarning)
            losses = torch.stack([step(X, Y) for _ in range(6)])
        found.append([losses, *loss.state_dict().values()])
    assert all(map(torch.equal, *found))
