"""Hooks that fire in a backward pass find their member in place, to read and to write."""

import pytest
import torch
from torch import nn

import chimera as ch

X = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.count = 0
        self.register_buffer("seen", torch.zeros(4))
        self.last = None

    def forward(self, x):
        last = 0 if self.last is None else self.last
        return self.layer(x).tanh() * (1 + self.count) + self.seen.clone() + last


class Counts(Base):
    def __init__(self):
        super().__init__()
        self.layer.register_full_backward_hook(self.hook)

    def hook(self, module, inputs, outputs):
        self.count += 1


class CountsBefore(Base):
    def __init__(self):
        super().__init__()
        self.layer.register_full_backward_pre_hook(self.hook)

    def hook(self, module, outputs):
        self.count += 1


class Sums(Counts):
    def hook(self, module, inputs, outputs):
        self.seen.mul_(0.9).add_(outputs[0].sum(0))


class Keeps(Counts):
    def hook(self, module, inputs, outputs):
        self.last = outputs[0].detach().sum(0)


class Weighs(Counts):
    def hook(self, module, inputs, outputs):
        return (inputs[0] * module.weight.detach().norm(),)


class OfATensor(Base):
    def forward(self, x):
        h = super().forward(x)
        if h.requires_grad:
            h.register_hook(self.hook)
        return h * 2

    def hook(self, grad):
        self.count += 1
        self.seen.add_(grad.sum(0))
        return grad * self.layer.weight.detach().norm()


class OfATensorLater(OfATensor):
    """Hooks nothing in its first calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) if self.calls > 2 else Base.forward(self, x)


KINDS = [Counts, CountsBefore, Sums, Keeps, Weighs, OfATensor, OfATensorLater]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_as_alone(agree, members, kind, training):
    agree([net.train(training) for net in members(kind, 4)], ch.each(X), steps=5)


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_training_step(members, kind):
    nets = members(lambda: nn.Sequential(nn.Linear(8, 8), kind()), 3)
    stack = ch.Stack(nets)
    step = ch.train_step(stack, _loss, ch.optim.SGD(stack, lr=0.1))
    for _ in range(4):
        step(X[0], X[1, :, :4])
        for net in nets:
            _loss(net(X[0]), X[1, :, :4]).backward()
            torch.optim.SGD(net.parameters(), lr=0.1).step()
            net.zero_grad()
    for mine, net in zip(stack, nets, strict=True):
        assert mine[1].count == net[1].count
        for key, value in net.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[key], value, rtol=1e-9, atol=1e-12)


def _loss(out, target):
    return (out - target).square().mean()


class LeavesAHook(Base):
    def forward(self, x):
        if self.count == 0:
            self.layer.weight.register_hook(lambda grad: grad * 2)
        self.count = 1
        return super().forward(x)


class Retains(Base):
    def forward(self, x):
        h = super().forward(x)
        h.retain_grad()
        self.last = h
        return h


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (LeavesAHook, "layer.weight: forward leaves a hook"),
        (Retains, "last: forward keeps a tensor that retains its gradient"),
    ],
)
def test_what_no_member_can_keep_is_refused(members, kind, text):
    with pytest.raises(TypeError, match=text):
        ch.Stack(members(kind, 3))(X[0])
