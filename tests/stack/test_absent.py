"""Parameters that a member does not use: an optimizer leaves them as torch.optim does alone."""

import copy
import math

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.stack.absent import absent

X = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4)
N = 8


class Branches(nn.Module):
    """Uses one of two layers, and the third always."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.one(x) if self.last.bias[0] > 0 else self.two(x))


class Alternates(Branches):
    """Changes the layer as it learns, so that rows are left out in some steps alone."""

    def forward(self, x):
        return self.last(self.one(x) if self.last.bias.sum() > 0 else self.two(x))


class ByName(Branches):
    """Members that run one by one, each by an attribute of its own making."""

    def forward(self, x):
        one = bool(self.last.bias[0] > 0)
        self.used = "one" if one else "two"
        return self.last(getattr(self, self.used)(x))


class Turns(nn.Module):
    """A loop of which some members take no turn."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 3)
        self.body = nn.Linear(4, 4)
        self.shared = nn.Parameter(torch.randn(4))
        self.loop = ch.While(lambda h: h.abs().sum() > 13, self.body, limit=3)

    def forward(self, x):
        return self.last(self.loop(x * self.shared.abs() * 2))


KINDS = [Branches, Alternates, ByName, Turns]


def made(kind, n=N):
    modules = []
    for index in range(n):
        torch.manual_seed(40 + index)
        modules.append(kind().double())
    return modules


def loss(y, target):
    return (y - target).square().mean()


def optimizers():
    return [
        (ch.optim.SGD, torch.optim.SGD, {"weight_decay": 0.1}),
        (ch.optim.SGD, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}),
        (ch.optim.SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (ch.optim.Adam, torch.optim.Adam, {"weight_decay": 0.1}),
        (ch.optim.AdamW, torch.optim.AdamW, {"weight_decay": 0.5}),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ours", "theirs", "settings"), optimizers())
@pytest.mark.parametrize("per_member", [False, True])
def test_runs_of_an_optimizer_equal_those_of_the_members_alone(
    kind, ours, theirs, settings, per_member
):
    modules, target = made(kind), torch.full((5, 3), 0.3, dtype=torch.float64)
    rates = [0.02 + 0.01 * i for i in range(N)] if per_member else [0.05] * N
    stack = ch.Stack(modules)
    mine = ours(stack, lr=rates if per_member else rates[0], **settings)
    step = ch.train_step(stack, loss, mine)
    alone = [copy.deepcopy(module) for module in modules]
    others = [
        theirs(module.parameters(), lr=rate, **settings)
        for module, rate in zip(alone, rates, strict=True)
    ]
    unused = 0
    for _ in range(12):
        step(X, target)
        for module, other in zip(alone, others, strict=True):
            other.zero_grad()
            loss(module(X), target).backward()
            unused += sum(p.grad is None for p in module.parameters())
            other.step()
        for member, module in zip(stack, alone, strict=True):
            for (name, one), two in zip(
                member.named_parameters(), module.parameters(), strict=True
            ):
                assert torch.allclose(one, two, rtol=1e-9, atol=1e-12), name
    assert unused, "every member used everything: the test shows nothing"
    for position, other in enumerate(others):
        state = mine.member_state(position)["state"]
        assert state.keys() == other.state_dict()["state"].keys() or not other.state_dict()["state"]
        for number, tensors in other.state_dict()["state"].items():
            for name, value in tensors.items():
                if isinstance(value, torch.Tensor):
                    assert torch.allclose(state[number][name], value, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_tell_who_used_a_parameter(kind):
    modules = made(kind)
    stack = ch.Stack(modules)
    stack(X).square().sum().backward()
    for module in modules:
        module(X).square().sum().backward()
    rows = {entry.name: absent(entry.parameter.grad) for entry in stack.layout()}
    found = set()
    for name, left_out in rows.items():
        path = name.removeprefix("groups.0.")
        unused = torch.tensor([m.get_parameter(path).grad is None for m in modules])
        assert torch.equal(
            unused, torch.zeros(N, dtype=torch.bool) if left_out is None else left_out
        )
        found |= set(unused.tolist())
    assert found == {True, False}


def test_a_gradient_of_nothing_but_zeros_is_one():
    """A parameter that was used decays, whatever the sign of the zeros in its gradient."""

    class Zero(Branches):
        def forward(self, x):
            return super().forward(x) * -0.0

    modules = made(Zero)
    stack = ch.Stack(modules)
    before = [copy.deepcopy(module) for module in stack]
    stack(X).sum().backward()
    ch.optim.SGD(stack, lr=0.1, weight_decay=0.5).step()
    for member, old in zip(stack, before, strict=True):
        used = "one" if old.last.bias[0] > 0 else "two"
        for path in ("one", "two"):
            moved = not torch.equal(getattr(member, path).weight, getattr(old, path).weight)
            assert moved == (path == used)


def test_gradients_add_up_over_calls():
    """What one call uses and another does not has a gradient."""

    class Which(Branches):
        def forward(self, x, way):
            return self.one(x) if (self.last.bias.sum() > 0) == (way > 0) else self.two(x)

    stack = ch.Stack(made(Which))
    for way in (1.0, -1.0):
        stack(X, torch.tensor(way)).sum().backward()
    rows = {
        entry.name: absent(entry.parameter.grad)
        for entry in stack.layout()
        if "last" not in entry.name
    }
    assert set(rows.values()) == {None}


def test_filling_with_zeros_is_a_gradient_as_in_torch():
    stack = ch.Stack(made(Branches))
    optimizer = ch.optim.SGD(stack, lr=0.1, weight_decay=0.5)
    stack(X).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    before = stack[0]
    optimizer.step()
    assert not torch.equal(stack[0].one.weight, before.one.weight)
    assert not torch.equal(stack[0].two.weight, before.two.weight)


def test_clipping_leaves_them_out_even_where_a_norm_is_no_number():
    modules = made(Branches)
    stack = ch.Stack(modules)
    step = ch.train_step(
        stack,
        lambda y, target: loss(y, target) * math.inf * 0.0,
        ch.optim.AdamW(stack, lr=0.1, weight_decay=0.5),
        clip=1.0,
    )
    step(X, torch.zeros(5, 3, dtype=torch.float64))
    for member, module in zip(stack, modules, strict=True):
        unused = module.two if module.last.bias[0] > 0 else module.one
        path = "two" if unused is module.two else "one"
        assert torch.equal(getattr(member, path).weight, unused.weight)


def test_where_all_use_all_nothing_is_looked_for():
    stack = ch.Stack(made(lambda: nn.Linear(4, 4)))
    stack(X)
    assert not any(entry.partial for entry in stack.layout())


def test_verify_sees_what_decays_though_it_was_not_used():
    stack = ch.Stack(made(Branches))
    optimizer = ch.optim.AdamW(stack, lr=0.1, weight_decay=0.5)
    target = torch.zeros(5, 3, dtype=torch.float64)
    ch.verify(stack, X, target, loss=loss, optimizer=optimizer, steps=4, raises=True)


def test_complex_parameters():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.randn(3, dtype=torch.complex128))
            self.two = nn.Parameter(torch.randn(3, dtype=torch.complex128))

        def forward(self, x):
            return (x * (self.one if self.one.real.sum() > 0 else self.two)).abs()

    modules = []
    for index in range(N):
        torch.manual_seed(index)
        modules.append(Complex())
    stack = ch.Stack(modules)
    stack(torch.ones(3, dtype=torch.float64)).sum().backward()
    used = torch.tensor([bool(module.one.real.sum() > 0) for module in modules])
    rows = {entry.name[-3:]: absent(entry.parameter.grad) for entry in stack.layout()}
    assert torch.equal(rows["one"], ~used)
    assert torch.equal(rows["two"], used)
