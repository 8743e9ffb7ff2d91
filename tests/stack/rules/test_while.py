"""``While`` with a member axis: masked turns, or one by one, always as the members' own loops."""

import pytest
import torch
from torch import nn

import chimera as ch

X = torch.linspace(-1, 1, 12).view(3, 4).double()


def big(x):
    return x.abs().sum() > 2


def half(x):
    return x * 0.6


class Turns(nn.Module):
    """A loop whose members turn from never to always."""

    def __init__(self, condition, body, limit=9):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.loop = ch.While(condition, body, limit)

    def forward(self, x):
        return self.loop(self.layer(x))


def rule_of(stack):
    return {row.path: row.rule for row in ch.explain(stack).rows}["loop"]


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("turns", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3, 4))

    def forward(self, x):
        self.turns += 1
        self.last = x.detach()
        return 0.5 * x + 0.1 * self.norm(self.layer(x)).tanh()


class Condition(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(()))
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x):
        self.asked += 1
        return (x.abs().sum() * (1 + self.scale.detach() * 0.1) > 2).view(1, 1)


MASKED = {
    "functions": lambda: Turns(big, half),
    "modules": lambda: Turns(Condition(), Body()),
    "a limit": lambda: Turns(lambda x: x.abs().sum() > 0, half, limit=3),
    "a constant": lambda: Turns(lambda x: True, Body(), limit=2),
    "never": lambda: Turns(lambda x: False, half),
    "in the loop": lambda: Turns(big, ch.While(lambda x: x[0].abs().sum() > 0.5, half, 2)),
    "a sequence": lambda: Turns(big, ch.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.0))),
}


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("n", [2, 8, 40])
def test_masked_turns(agree, members, name, n):
    stack = agree(members(MASKED[name], n), X, tolerance=1e-8)
    assert rule_of(stack) == "masked turns"


def test_turns_are_each_members_own(members):
    modules = members(MASKED["modules"], 40)
    stack = ch.Stack(modules)
    stack(4 * X)
    turns = [module.loop.body.turns.item() for module in stack]
    assert len(set(turns)) > 2
    asked = [module.loop.condition.asked.item() for module in stack]
    assert asked == [min(count + 1, 9) for count in turns]


class Pair(nn.Module):
    """A state of several tensors and a value."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.loop = ch.While(lambda s: big(s[0]), lambda s: (s[0] * 0.6, s[1] + 1, *s[2:]), 9)

    def forward(self, x):
        return self.loop((self.layer(x), torch.zeros((), dtype=torch.int64), {"note": "a"}))


def test_a_state_of_several_tensors(agree, members):
    agree(members(Pair, 12), X)


class Draws(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x * 0.6, 0.2)


class Counts(nn.Module):
    turns = 0

    def forward(self, x):
        self.turns += 1
        return x * 0.6


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 0.6))

    def forward(self, x):
        with torch.no_grad():
            self.scale.mul_(0.95)
        return x * (self.scale * 1)


class Outside(nn.Module):
    """The body is a function that uses what is registered elsewhere, and writes to it."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.inner = nn.Linear(4, 4), kind()
        self.loop = ch.While(big, lambda x: 0.8 * self.inner(x), 9)

    def forward(self, x):
        return self.loop(self.layer(x))


ALONE = {
    "draws": lambda: Turns(big, Draws()),
    "counts": lambda: Turns(big, Counts()),
    "parameters": lambda: Turns(big, Writes()),
    "counts outside": lambda: Outside(Counts),
    "parameters outside": lambda: Outside(Writes),
    "a value that changes": lambda: _valued(),
    "another dtype": lambda: Turns(big, lambda x: (x * 0.6).to(torch.complex128)),
    "an if inside": lambda: Turns(big, lambda x: x * 0.5 if x.sum() > 0 else x * 0.4),
}


def _valued():
    class Valued(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.loop = ch.While(lambda s: big(s[0]), lambda s: (s[0] * 0.6, s[1] + 1), 9)

        def forward(self, x):
            return self.loop((self.layer(x), 0))

    return Valued()


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("n", [4, 40])
def test_what_no_mask_can_do(agree, members, name, n):
    agree(members(ALONE[name], n), X)


@pytest.mark.parametrize("kind", [nn.Identity, Body])
def test_bodies_that_write_buffers_outside(agree, members, kind):
    agree(members(lambda: Outside(kind), 12), X, tolerance=1e-8)


def test_shapes_that_broadcast_are_not_masked(agree, members):
    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(4))
            self.loop = ch.While(lambda x: x.dim() == 1 and x.sum() > 0, lambda x: x + X, 3)

        def forward(self, x):
            return self.loop(self.scale * x[0])

    agree(members(Grows, 16), X)


def test_what_a_done_member_never_had_does_not_reach_its_gradient(agree, members):
    """The state overflows for members that stop in time, were they to go on."""
    agree(members(lambda: Turns(lambda x: x.abs().max() < 3, lambda x: (x * 9).exp(), 6), 24), X)


def test_errors_are_those_of_the_loop(members):
    several = ch.Stack(members(lambda: Turns(lambda x: x > 0, half), 4))
    with pytest.raises(ValueError, match="use .any"):
        several(X)
    none = ch.Stack(members(lambda: Turns(lambda x: "yes", half), 4))
    with pytest.raises(TypeError, match="it gives a bool or a one-element tensor"):
        none(X)
