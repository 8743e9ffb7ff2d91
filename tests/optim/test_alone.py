"""Every optimizer against ``torch.optim`` on each member alone: the same numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chimera as ch

SETTINGS = {
    "SGD": {
        "lr": st.floats(1e-4, 0.5),
        "momentum": st.sampled_from([0.0, 0.3, 0.9]),
        "dampening": st.sampled_from([0.0, 0.5]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
    },
    "Adam": {
        "lr": st.floats(1e-4, 0.5),
        "betas": (st.floats(0, 0.99), st.floats(0, 0.9999)),
        "eps": st.floats(1e-10, 1e-2),
        "weight_decay": st.sampled_from([0.0, 0.1]),
    },
}
SETTINGS["AdamW"] = SETTINGS["Adam"]


def drawn(draw, members, kind):
    """One setting: a number, or a list or tensor of one per member."""
    if isinstance(kind, tuple):
        return tuple(drawn(draw, members, one) for one in kind)
    if draw(st.booleans()):
        return draw(kind)
    values = draw(st.lists(kind, min_size=members, max_size=members))
    return draw(st.sampled_from([values, torch.tensor(values, dtype=torch.float64)]))


def of_member(value, member):
    if isinstance(value, tuple):
        return tuple(of_member(one, member) for one in value)
    return float(value[member]) if isinstance(value, list | torch.Tensor) else value


@st.composite
def cases(draw):
    name = draw(st.sampled_from(sorted(SETTINGS)))
    order = draw(st.permutations(range(draw(st.integers(1, 5)))))
    cut = draw(st.integers(0, len(order) - 1))
    groups = [sorted(part) for part in (order[:cut], order[cut:]) if part]
    kinds = SETTINGS[name]
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), unique=True))
    settings = {one: drawn(draw, len(order), kinds[one]) for one in chosen}
    shapes = draw(st.lists(st.sampled_from([(), (3,), (2, 3)]), min_size=1, max_size=3))
    late = draw(st.integers(0, len(shapes)))
    return name, groups, shapes, settings, late


def give_gradients(stack, alone, step, late, scale=None):
    """The same random gradients to the stack and to the members; parameter ``late`` waits."""
    generator = torch.Generator().manual_seed(step)
    for index, one in enumerate(stack.layout()):
        p = one.parameter
        grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        waits = index == late and step in (0, 1, 5)
        p.grad = None if waits else grad
        for row, member in enumerate(one.members.tolist()):
            alone[member][one.name].grad = None if waits else grad[row].clone()


@given(cases())
def test_twenty_steps_give_the_numbers_of_torch_alone(layout_class, case):
    name, groups, shapes, settings, late = case
    stack = layout_class(groups, shapes)
    alone = [stack.alone(member) for member in range(len(stack))]
    ours = getattr(ch.optim, name)(stack, **settings)
    theirs = [
        getattr(torch.optim, name)(
            own.values(), **{key: of_member(value, member) for key, value in settings.items()}
        )
        for member, own in enumerate(alone)
    ]
    for step in range(20):
        give_gradients(stack, alone, step, late)
        before = [one.parameter.grad for one in stack.layout()]
        kept = [grad if grad is None else grad.clone() for grad in before]
        ours.step()
        for one in theirs:
            one.step()
        for grad, copy in zip(before, kept, strict=True):
            assert grad is None or torch.equal(grad, copy)
    assert ours.steps == 20
    for member, own in enumerate(alone):
        for key, row in stack.rows(member).items():
            torch.testing.assert_close(row, own[key].detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.9, [0.9, 0.5, 0.1]])
@pytest.mark.parametrize("decay", [0.0, [0.0, 0.1, 0.2]])
def test_nesterov(layout_class, momentum, decay):
    stack = layout_class([[0, 2], [1]], [(2, 2), (2,)])
    alone = [stack.alone(member) for member in range(3)]
    ours = ch.optim.SGD(stack, 0.1, momentum, weight_decay=decay, nesterov=True)
    theirs = [
        torch.optim.SGD(
            own.values(),
            0.1,
            of_member(momentum, i),
            weight_decay=of_member(decay, i),
            nesterov=True,
        )
        for i, own in enumerate(alone)
    ]
    for step in range(20):
        give_gradients(stack, alone, step, 1)
        ours.step()
        for one in theirs:
            one.step()
    for member, own in enumerate(alone):
        for key, row in stack.rows(member).items():
            torch.testing.assert_close(row, own[key].detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_settings_changed_on_the_way(layout_class, name):
    stack = layout_class([[0, 1], [2]], [(2, 2)])
    alone = [stack.alone(member) for member in range(3)]
    ours = getattr(ch.optim, name)(stack, lr=0.1)
    theirs = [getattr(torch.optim, name)(own.values(), lr=0.1) for own in alone]
    decayed = {"weight_decay": 0.2}
    extra = {"momentum": 0.7} if name == "SGD" else {"betas": (0.5, 0.8)}
    changes = {
        3: ({"lr": 0.01}, None),
        6: ({"lr": [0.3, 0.2]}, [2, 0]),
        9: (decayed, [-1]),
        12: (extra, [1]),
        15: (extra, None),
        17: ({"momentum": 0.0} if name == "SGD" else {"eps": 1e-3}, [0]),
        19: (extra, None),
    }
    for step in range(25):
        if step in changes:
            new, members = changes[step]
            ours.set(**new, members=members)
            for place, member in enumerate(range(3) if members is None else members):
                own = {key: of_member(value, place) for key, value in new.items()}
                theirs[member].param_groups[0].update(own)
        give_gradients(stack, alone, step, -1)
        ours.step()
        for one in theirs:
            one.step()
        for member, own in enumerate(alone):
            for key, row in stack.rows(member).items():
                torch.testing.assert_close(row, own[key].detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "settings", [{}, {"lr": [0.1, 0.2]}, {"lr": 0.1, "betas": ([0.5, 0.9], 0.9)}]
)
@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
@pytest.mark.parametrize("dtype", [torch.complex128, torch.bfloat16, torch.float32])
def test_other_dtypes(layout_class, name, settings, dtype):
    if name == "SGD":
        settings = {"lr": settings.get("lr", 0.1), "momentum": 0.9 if settings else [0.5, 0.9]}
    stack = layout_class([[0, 1]], [(4, 3)], dtype=dtype)
    alone = [stack.alone(member) for member in range(2)]
    ours = getattr(ch.optim, name)(stack, weight_decay=0.1, **settings)
    theirs = [
        getattr(torch.optim, name)(
            own.values(),
            weight_decay=0.1,
            **{key: of_member(value, i) for key, value in settings.items()},
        )
        for i, own in enumerate(alone)
    ]
    for step in range(5):
        give_gradients(stack, alone, step, -1)
        ours.step()
        for one in theirs:
            one.step()
    close = {torch.complex128: 1e-9, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    for member, own in enumerate(alone):
        for key, row in stack.rows(member).items():
            assert row.dtype == dtype
            torch.testing.assert_close(row, own[key].detach(), rtol=close, atol=close)


def test_a_real_stack_trains_as_its_members_do():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double() for _ in range(4)]
    rates, x = torch.logspace(-3, -1, 4), torch.rand(6, 3, dtype=torch.float64)
    stack = ch.Stack(nets)
    ours = ch.optim.AdamW(stack, lr=rates)
    theirs = [
        torch.optim.AdamW(net.parameters(), lr=float(rate))
        for net, rate in zip(nets, rates, strict=True)
    ]
    for _ in range(20):
        ours.zero_grad()
        stack(x).square().sum().backward()
        ours.step()
        for net, one in zip(nets, theirs, strict=True):
            one.zero_grad()
            net(x).square().sum().backward()
            one.step()
    for net, member in zip(nets, stack.modules_list(), strict=True):
        for p, q in zip(net.parameters(), member.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)
