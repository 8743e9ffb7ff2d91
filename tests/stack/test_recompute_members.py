"""Activation checkpointing inside a member."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import checkpoint as torchs
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import chimera as ch
from chimera.draws.recompute import _NAMES

X = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4)


class Recomputes(nn.Module):
    """Layers with draws, statistics, a buffer and a parameter of the block's own, all twice."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.use_reentrant = use_reentrant
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 4)
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.4)
        self.scale = nn.Parameter(torch.rand(6))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def part(self, x):
        self.count += 1
        return self.drop(self.norm(self.first(x)) * self.scale).tanh()

    def forward(self, x):
        x = F.dropout(x, 0.1, self.training)
        h = checkpoint(self.part, x, use_reentrant=self.use_reentrant)
        h = checkpoint(lambda h: self.drop(h) * self.scale, h, use_reentrant=self.use_reentrant)
        return self.drop(self.last(h))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_equal_to_the_members_alone(agree, members, use_reentrant):
    stack = agree(members(Recomputes, 4, use_reentrant), X)
    (reason,) = {row.reason for row in ch.explain(stack).alone}
    assert reason == "activation checkpointing computes again outside of torch.vmap"


class InOrder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])

    def forward(self, x):
        return checkpoint_sequential(self.layers, 2, x, use_reentrant=False)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def inner(self, x):
        return checkpoint(self.two, x.tanh(), use_reentrant=False)

    def forward(self, x):
        return checkpoint(lambda x: self.inner(self.one(x)), x, use_reentrant=False)


class Inside(Nested):
    """Its gradient is taken inside of forward."""

    def forward(self, x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = checkpoint(self.one, x, use_reentrant=False).square().sum()
            (grad,) = torch.autograd.grad(y, x)
        return self.two(grad)


@pytest.mark.parametrize("kind", [InOrder, Nested, Inside])
def test_other_ways_to_checkpoint(agree, members, kind):
    agree(members(kind, 3), X)


def test_two_calls_before_a_backward(members):
    modules = members(Nested, 3)
    stack = ch.Stack(modules)
    (stack(X) * stack(X * 2)).sum().backward()
    for i, module in enumerate(modules):
        (module(X) * module(X * 2)).sum().backward()
        for name, parameter in module.named_parameters():
            mine = stack.get_parameter(f"groups.0.{name}").grad[i]
            assert torch.allclose(mine, parameter.grad)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_stack_under_a_checkpoint_of_the_users(members, use_reentrant):
    stack = ch.Stack(members(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), 3))
    x = X.clone().requires_grad_()
    stack(x).square().sum().backward()
    wanted, x.grad = x.grad, None
    calls = stack.calls
    checkpoint(stack, x, use_reentrant=use_reentrant).square().sum().backward()
    assert torch.allclose(x.grad, wanted)
    assert stack.calls == calls + 1
    assert not ch.explain(stack).alone


@pytest.mark.parametrize("n", [1, 3])
def test_a_stack_that_draws_under_a_checkpoint_needs_its_key(members, n):
    """Else it would draw other masks the second time, and its gradients be wrong in silence."""
    stack = ch.Stack(members(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), n))
    y = checkpoint(stack, X.clone().requires_grad_(), use_reentrant=False)
    with pytest.raises(RuntimeError, match=r"with ch\.randomness\(seed=0, step=step\)"):
        y.square().sum().backward()


def test_a_stack_that_draws_under_a_checkpoint_with_its_key(members):
    stack = ch.Stack(members(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), 3))

    def keyed(x):
        with ch.randomness(seed=0, step=5):
            return stack(x)

    x = X.clone().requires_grad_()
    keyed(x).square().sum().backward()
    wanted, x.grad = x.grad, None
    checkpoint(keyed, x, use_reentrant=False).square().sum().backward()
    assert torch.allclose(x.grad, wanted)


def test_randomness_gives_the_same_draws_again():
    layer = nn.Dropout(0.5)
    x = torch.ones(50, requires_grad=True)
    with ch.randomness(seed=1, member=2, step=3):
        y = checkpoint(lambda x: layer(x * x), x, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)


def test_torch_is_left_as_it_was(members):
    before = [getattr(torchs, name) for name in _NAMES]
    stack = ch.Stack(members(Recomputes, 3, False))
    stack(X).sum().backward()
    assert [getattr(torchs, name) for name in _NAMES] == before


class Counts(nn.Module):
    """What its checkpointed part writes, it writes twice."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.use_reentrant = use_reentrant
        self.layer = nn.Linear(4, 4)
        self.turns, self.seen = 0, []
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))

    def part(self, x):
        self.turns += 1
        self.seen.append(self.turns)
        self.mean = 0.5 * self.mean + x.detach().mean(0)
        self.last = x.detach().sum()
        return self.layer(x).tanh() * self.turns

    def forward(self, x):
        return checkpoint(self.part, x * 1.0, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_the_second_call_writes_stays(members, use_reentrant, n):
    modules = members(Counts, n, use_reentrant)
    stack = ch.Stack(modules)
    for _ in range(2):
        x = X.clone().requires_grad_()
        stack(x).sum().backward()
        for module in modules:
            module(X.clone().requires_grad_()).sum().backward()
    for module, mine in zip(modules, stack, strict=True):
        assert (mine.turns, mine.seen) == (module.turns, module.seen) == (4, [1, 2, 3, 4])
        assert torch.equal(mine.mean, module.mean)
        assert torch.equal(mine.last, module.last)


def test_a_member_that_is_computed_again_up_to_what_is_needed():
    """torch ends the second call by an error, which must not be looked into."""
    stack = ch.Stack([nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4))])

    def keyed(x):
        with ch.randomness(seed=0, step=1):
            return stack(x)

    x = X.float().requires_grad_()
    keyed(x).sum().backward()
    wanted, x.grad = x.grad, None
    checkpoint(keyed, x, use_reentrant=False).sum().backward()
    assert torch.equal(x.grad, wanted)
