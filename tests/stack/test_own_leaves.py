"""Members that ask their parameters what only leaves answer, or train them inside of forward."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch

X = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.unused = nn.Linear(8, 4), nn.Linear(2, 2)


class AsksLeaf(Base):
    def forward(self, x):
        return self.layer(x) * (2 if self.layer.weight.is_leaf else 3)


class AsksGraph(Base):
    def forward(self, x):
        return self.layer(x) * (2 if self.layer.weight.grad_fn is None else 3)


class UsesGradient(Base):
    def forward(self, x):
        grad = self.layer.weight.grad
        return self.layer(x) + (0 if grad is None else grad.sum())


class ZeroesGradients(Base):
    def forward(self, x):
        self.zero_grad()
        return self.layer(x)


class ScalesGradient(Base):
    def forward(self, x):
        if self.layer.weight.grad is not None:
            self.layer.weight.grad.mul_(0.5)
            self.layer.bias.grad = self.layer.bias.grad * 0.5
        return self.layer(x)


class Trains(Base):
    """Training at test time."""

    optimizer = torch.optim.SGD

    def forward(self, x):
        optimizer = self.optimizer(self.layer.parameters(), lr=0.1)
        with torch.enable_grad():
            for _ in range(2):
                optimizer.zero_grad()
                self.layer(x).square().mean().backward()
                optimizer.step()
        return self.layer(x)


class TrainsByAdam(Trains):
    optimizer = torch.optim.Adam


class GoesBackward(Base):
    def forward(self, x):
        with torch.enable_grad():
            self.layer(x.detach()).square().mean().backward()
        size = self.layer.weight.grad.abs().sum()
        self.layer.weight.grad = None
        return self.layer(x) * size


class FreezesForAWhile(Base):
    """As a generator's step does to the critic."""

    def forward(self, x):
        self.layer.requires_grad_(False)
        frozen = self.layer(x)
        self.layer.requires_grad_(True)
        return frozen.tanh() + self.layer(x)


class MovesAfterUse(Base):
    """The graph holds the weight that was there before."""

    def forward(self, x):
        h = self.layer(x) * self.layer.bias
        self.layer.weight.data = self.layer.weight.data * 0.9
        self.layer.bias.data = self.layer.bias.data * 0.9
        return torch.tanh(h)


class Normalizes(Base):
    def forward(self, x):
        self.layer.weight.data = F.normalize(self.layer.weight.data, dim=1)
        return self.layer(x)


class HooksItself(Base):
    def forward(self, x):
        def halve(parameter):
            parameter.grad.mul_(0.5)

        handle = self.layer.weight.register_post_accumulate_grad_hook(halve)
        with torch.enable_grad():
            self.layer(x.detach()).mean().backward()
        handle.remove()
        size = self.layer.weight.grad.sum().detach()
        self.layer.zero_grad()
        return self.layer(x) * size


KINDS = [
    *(AsksLeaf, AsksGraph, UsesGradient, ZeroesGradients, ScalesGradient, Trains, TrainsByAdam),
    *(GoesBackward, FreezesForAWhile, MovesAfterUse, Normalizes, HooksItself),
]


def _held(stack, nets):
    """Parameters and gradients, and what the members alone have."""
    for entry in stack.layout():
        path = entry.name.split(".", 2)[2]
        for row, index in enumerate(entry.members.tolist()):
            alone = dict(nets[index].named_parameters())[path]
            grad = entry.parameter.grad
            yield entry.parameter[row].detach(), alone.detach()
            none = torch.zeros_like(alone)
            yield (none if grad is None else grad[row]), none if alone.grad is None else alone.grad


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_add_up(members, kind, count):
    """No gradient is taken away between the calls."""
    nets = members(kind, count)
    stack = ch.Stack(nets)
    for step in range(3):
        out = stack(ch.each(X[:count] + step))
        alone = [net(x + step) for net, x in zip(nets, X, strict=False)]
        torch.testing.assert_close(out, torch.stack(alone), rtol=1e-9, atol=1e-12)
        out.square().sum().backward()
        for one in alone:
            one.square().sum().backward()
        for mine, theirs in _held(stack, nets):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_as_the_loop(agree, members, kind):
    agree(members(kind, 4), ch.each(X))


@pytest.mark.parametrize("kind", [Trains, GoesBackward, AsksLeaf, MovesAfterUse])
def test_without_gradients(members, kind):
    nets = members(kind, 3)
    stack = ch.Stack(nets)
    with torch.no_grad():
        for _ in range(2):
            out = stack(ch.each(X[:3]))
            alone = torch.stack([net(x) for net, x in zip(nets, X, strict=False)])
            torch.testing.assert_close(out, alone, rtol=1e-9, atol=1e-12)
    for mine, theirs in _held(stack, nets):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_requires_grad_is_as_alone_where_no_graph_is_made(members):
    class Asks(Base):
        def forward(self, x):
            x = x.clone()
            x.data = x.data * 1  # one by one
            return self.layer(x) * (2 if self.layer.weight.requires_grad else 3)

    nets = members(Asks, 3)
    with torch.no_grad():
        out = ch.Stack(nets)(ch.each(X[:3]))
        torch.testing.assert_close(out, torch.stack([n(x) for n, x in zip(nets, X, strict=False)]))


@pytest.mark.parametrize("kind", [AsksLeaf, UsesGradient, Normalizes, FreezesForAWhile])
def test_some_members_hold_a_parameter_frozen(agree, members, kind):
    nets = members(kind, 3)
    if kind is not FreezesForAWhile:
        nets[1].layer.requires_grad_(False)
    nets[1].unused.requires_grad_(False)
    agree(nets, ch.each(X[:3]))


@pytest.mark.parametrize("kind", [Trains, UsesGradient, MovesAfterUse])
def test_a_run_of_training(members, kind):
    nets = members(kind, 3)
    stack = ch.Stack(nets)
    rates = [0.01, 0.02, 0.03]
    optimizer = ch.optim.AdamW(stack, lr=torch.tensor(rates), weight_decay=0.1)
    step = ch.train_step(stack, F.mse_loss, optimizer)
    theirs = [
        torch.optim.AdamW(n.parameters(), lr=r, weight_decay=0.1)
        for n, r in zip(nets, rates, strict=True)
    ]
    for _ in range(4):
        step(X[0], X[1][:, :4])
        for net, one in zip(nets, theirs, strict=True):
            one.zero_grad()
            F.mse_loss(net(X[0]), X[1][:, :4]).backward()
            one.step()
    for mine, alone in zip(stack.modules_list(), nets, strict=True):
        for one, other in zip(mine.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_a_graph_of_gradients_is_refused(members):
    stack = ch.Stack(members(AsksLeaf, 2))
    loss = stack(ch.each(X[:2])).square().sum()
    with (
        pytest.raises(RuntimeError, match="gradients without a graph"),
        pytest.warns(UserWarning, match="create_graph=True"),
    ):
        loss.backward(create_graph=True)


class HoldsAnOptimizer(Base):
    def __init__(self):
        super().__init__()
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.1)
        self.trains = True

    def forward(self, x):
        if self.trains:
            self.optimizer.zero_grad()
        return self.layer(x)


def test_an_optimizer_that_the_module_holds(members):
    nets = members(HoldsAnOptimizer, 2)
    with pytest.raises(TypeError, match=r"layer.weight: forward reaches .* such as an optimizer"):
        ch.Stack(nets)(X[0])
    for net in nets:
        net.trains = False
    ch.verify(ch.Stack(nets), X[0], raises=True)


def test_a_call_that_fails_changes_nothing(members):
    class Fails(Base):
        def forward(self, x):
            self.layer.weight.data = self.layer.weight.data * 0.9
            self.layer.bias.grad = torch.ones(4, dtype=x.dtype)
            if x.sum() > 100:
                raise ValueError("too much")
            return self.layer(x)

    stack = ch.Stack(members(Fails, 2))
    stack(X[0])
    stack.zero_grad()
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    with pytest.raises(ValueError, match="too much"):
        stack(ch.each(torch.stack([X[0], X[0] + 1000])))
    for name, value in stack.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in stack.parameters())
