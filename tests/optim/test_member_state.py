"""The optimizer's state of one member, there and back through ``torch.optim``."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import chimera as ch

KINDS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": [1e-2, 2e-2, 3e-2, 1e-3], "weight_decay": 0.1},
    "Adam": {"lr": 1e-2, "betas": ([0.9, 0.8, 0.7, 0.9], 0.99), "weight_decay": 0.01},
    "SGD": {"lr": 1e-2, "momentum": [0.9, 0.0, 0.5, 0.9], "dampening": 0.1},
}


class Tied(nn.Module):
    """A parameter of its own, one that is tied, and one that is frozen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.second = nn.Linear(width, width)
        self.second.weight.requires_grad_(False)
        self.scale = nn.Parameter(torch.rand(width))
        self.third = nn.Linear(3, width)
        self.third.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x) + self.third(x))) * self.scale


def modules(seed: int = 0) -> list[nn.Module]:
    torch.manual_seed(seed)
    made: list[nn.Module] = [Tied(4), nn.Linear(3, 4), Tied(4), Tied(5)]
    return [module.double() for module in made]


def loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def alone(module: nn.Module, optimizer: torch.optim.Optimizer, xs: torch.Tensor) -> None:
    for x in xs:
        optimizer.zero_grad()
        loss(module(x)).backward()
        optimizer.step()


def assert_close(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def batches(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, 3, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("kind", KINDS)
def test_torch_goes_on_from_a_members_state(kind: str) -> None:
    stack = ch.Stack(modules())
    optimizer = getattr(ch.optim, kind)(stack, **KINDS[kind])
    step = ch.train_step(stack, loss, optimizer)
    for x in batches(4, 1):
        step(x)
    plain = []
    for i, module in enumerate(stack.modules_list()):
        other = getattr(torch.optim, kind)(module.parameters(), lr=7.0)
        other.load_state_dict(optimizer.member_state(i))
        plain.append((module, other))
    for x in batches(5, 2):
        step(x)
    for i, (module, other) in enumerate(plain):
        alone(module, other, batches(5, 2))
        assert_close(module, stack[i])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [0, 3])
def test_a_member_goes_on_from_torchs_state(kind: str, taken: int) -> None:
    """Also where the others have taken another number of steps."""
    stack = ch.Stack(modules())
    optimizer = getattr(ch.optim, kind)(stack, **KINDS[kind])
    step = ch.train_step(stack, loss, optimizer)
    for x in batches(taken, 1):
        step(x)
    expected = stack.modules_list()
    others = []
    for i, module in enumerate(expected):
        other = getattr(torch.optim, kind)(module.parameters())
        other.load_state_dict(optimizer.member_state(i))
        others.append(other)
    for group in others[2].param_groups:
        group["lr"] = 0.05
    alone(expected[2], others[2], batches(4, 5))
    stack[2] = expected[2]
    optimizer.load_member_state(2, others[2].state_dict())
    for x in batches(5, 2):
        step(x)
    for i, (module, other) in enumerate(zip(expected, others, strict=True)):
        alone(module, other, batches(5, 2))
        assert_close(module, stack[i])
    saved = copy.deepcopy(optimizer.state_dict())
    again = getattr(ch.optim, kind)(stack, **KINDS[kind])
    again.load_state_dict(saved)
    assert str(again.member_state(2)) == str(optimizer.member_state(2))


@pytest.mark.parametrize("kind", KINDS)
def test_layout_is_torchs(kind: str) -> None:
    stack = ch.Stack(modules())
    optimizer = getattr(ch.optim, kind)(stack, **KINDS[kind])
    ch.train_step(stack, loss, optimizer)(batches(1, 0)[0])
    for i, module in enumerate(stack.modules_list()):
        own = {"momentum": 0.9} if kind == "SGD" else {}
        other = getattr(torch.optim, kind)(module.parameters(), **own)
        alone(module, other, batches(1, 0))
        mine, theirs = optimizer.member_state(i), other.state_dict()
        assert [g.keys() for g in mine["param_groups"]] == [
            g.keys() for g in theirs["param_groups"]
        ]
        assert mine["param_groups"][0]["params"] == theirs["param_groups"][0]["params"]
        if not (kind == "SGD" and i == 1):
            assert mine["state"].keys() == theirs["state"].keys()
            for number, tensors in mine["state"].items():
                assert tensors.keys() == theirs["state"][number].keys()
                shapes = {name: value.shape for name, value in theirs["state"][number].items()}
                assert {name: value.shape for name, value in tensors.items()} == shapes


def test_parameter_groups_in_order() -> None:
    stack = ch.Stack(modules())
    rest = [{"params": "**.bias", "lr": [1.0, 2.0, 3.0, 4.0]}]
    state = ch.optim.AdamW(stack, lr=1e-3, groups=rest).member_state(2)
    assert [group["params"] for group in state["param_groups"]] == [[0, 1, 2], [3, 4, 5]]
    assert [group["lr"] for group in state["param_groups"]] == [1e-3, 3.0]


def test_the_state_is_a_copy() -> None:
    stack = ch.Stack(modules())
    optimizer = ch.optim.Adam(stack)
    ch.train_step(stack, loss, optimizer)(batches(1, 0)[0])
    optimizer.member_state(0)["state"][0]["exp_avg"].fill_(9.0)
    assert not (optimizer.member_state(0)["state"][0]["exp_avg"] == 9).any()


def test_states_that_do_not_fit() -> None:
    stack = ch.Stack(modules())
    optimizer = ch.optim.AdamW(stack, lr=1e-3)
    step = ch.train_step(stack, loss, optimizer)
    step(batches(1, 0)[0])
    before = str(optimizer.state_dict())
    state = optimizer.member_state(0)
    cases: list[tuple[Any, str]] = [
        (stack.state_dict(), "expected the state_dict"),
        (optimizer.member_state(1), r"groups of \[2\] parameters, member 0 of \[6\]"),
        (torch.optim.SGD(stack[0].parameters()).state_dict(), "'momentum'.* differ"),
        (torch.optim.AdamW(stack[0].parameters(), amsgrad=True).state_dict(), "amsgrad=True"),
        (torch.optim.Adam(stack[0].parameters()).state_dict(), "decoupled_weight_decay=False"),
    ]
    wrong = copy.deepcopy(state)
    wrong["state"][0]["exp_avg"] = torch.zeros(9)
    cases.append((wrong, r"exp_avg of groups\.0\.scale is \(9,\)"))
    missing = copy.deepcopy(state)
    del missing["state"][0]["exp_avg"]
    cases.append((missing, "expected"))
    negative = copy.deepcopy(state)
    negative["param_groups"][0]["lr"] = -1.0
    cases.append((negative, "lr"))
    for given_, message in cases:
        with pytest.raises(ValueError, match=message):
            optimizer.load_member_state(0, given_)
        assert str(optimizer.state_dict()) == before
    with pytest.raises(ValueError, match="no member 9"):
        optimizer.member_state(9)
    with pytest.raises(ValueError, match="no member 9"):
        optimizer.load_member_state(9, state)


@given(
    kind=st.sampled_from(sorted(KINDS)),
    moves=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=15)
def test_any_turns_of_stack_and_alone(kind: str, moves: list[tuple[int, int]]) -> None:
    """Members leave for some steps alone and come back; each is as if it had always been alone."""
    stack = ch.Stack(modules())
    optimizer = getattr(ch.optim, kind)(stack, **KINDS[kind])
    step = ch.train_step(stack, loss, optimizer)
    expected = stack.modules_list()
    others = []
    for i, module in enumerate(expected):
        others.append(getattr(torch.optim, kind)(module.parameters()))
        others[i].load_state_dict(optimizer.member_state(i))
    for turn, (member, count) in enumerate(moves):
        step(batches(1, turn)[0])
        for module, other in zip(expected, others, strict=True):
            alone(module, other, batches(1, turn))
        module = stack[member]
        away = getattr(torch.optim, kind)(module.parameters())
        away.load_state_dict(optimizer.member_state(member))
        alone(module, away, batches(count, 100 + turn))
        stack[member] = module
        optimizer.load_member_state(member, away.state_dict())
        alone(expected[member], others[member], batches(count, 100 + turn))
    for i, module in enumerate(expected):
        assert_close(module, stack[i])


def test_what_is_frozen_later_stands_still_and_what_is_freed_moves() -> None:
    """As torch's optimizers, which look at ``requires_grad`` in every step."""
    torch.manual_seed(0)
    stack = ch.Stack([nn.Linear(3, 2).double() for _ in range(3)])
    optimizer = ch.optim.AdamW(stack, lr=0.1, weight_decay=0.5)
    step = ch.train_step(stack, loss, optimizer)
    step(batches(1, 0)[0])
    member = stack[1]
    member.weight.requires_grad_(False)
    stack[1] = member
    before = stack.modules_list()
    step(batches(1, 1)[0])
    assert torch.equal(stack[1].weight, before[1].weight)
    assert not torch.equal(stack[1].bias, before[1].bias)
    assert not torch.equal(stack[0].weight, before[0].weight)
    stack.requires_grad_()
    step(batches(1, 2)[0])
    assert not torch.equal(stack[1].weight, before[1].weight)
    stack.requires_grad_(False)
    with pytest.raises(ValueError, match="requires a gradient"):
        step(batches(1, 2)[0])
    stack.requires_grad_()
    optimizer.freeze([0])
    optimizer.freeze([2])
    before = stack.modules_list()
    step(batches(1, 3)[0])
    assert [torch.equal(stack[i].bias, before[i].bias) for i in range(3)] == [True, False, True]


OPTIMIZERS = {
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": [0.01, 0.02, 0.03], "weight_decay": 0.1},
    "SGD": {"lr": 0.05, "momentum": 0.9, "dampening": [0.0, 0.1, 0.2]},
    "nesterov": {"lr": 0.05, "momentum": [0.9, 0.8, 0.7], "nesterov": True},
}


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_what_is_frozen_for_a_while_waits(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    torch.manual_seed(0)
    kind, settings = ("SGD" if name == "nesterov" else name), OPTIMIZERS[name]
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double() for _ in range(3)]
    nets[2][2].requires_grad_(False)
    stack = ch.Stack(nets)
    optimizer = getattr(ch.optim, kind)(stack, **settings)
    step = ch.train_step(stack, loss, optimizer, engine=engine)
    alone_settings = [
        {key: value[i] if isinstance(value, list) else value for key, value in settings.items()}
        for i in range(3)
    ]
    others = [
        getattr(torch.optim, kind)(net.parameters(), **own)
        for net, own in zip(nets, alone_settings, strict=True)
    ]

    def both(steps: int, seed: int) -> None:
        for data in batches(steps, seed):
            step(data)
            for net, other in zip(nets, others, strict=True):
                alone(net, other, [data])
        for i, (net, other) in enumerate(zip(nets, others, strict=True)):
            assert_close(net, stack[i])
            ours, theirs = optimizer.member_state(i)["state"], other.state_dict()["state"]
            theirs = {n: {k: v for k, v in s.items() if v is not None} for n, s in theirs.items()}
            theirs = {number: own for number, own in theirs.items() if own}
            assert ours.keys() == theirs.keys()
            for number, own in theirs.items():
                for key, tensor in own.items():
                    torch.testing.assert_close(ours[number][key], tensor, msg=f"{i} {number} {key}")

    def freeze(member: int, layer: int, frozen: bool) -> None:
        module = stack[member]
        for one in (module, nets[member]):
            one[layer].requires_grad_(not frozen)
        stack[member] = module
        others[member].zero_grad()

    both(4, 0)
    freeze(0, 0, True)
    both(3, 1)
    freeze(1, 0, True)
    both(2, 2)
    freeze(0, 0, False)
    freeze(2, 2, False)
    both(3, 3)
    state = optimizer.state_dict()
    again = getattr(ch.optim, kind)(stack, **settings)
    again.load_state_dict(state)
    step = ch.train_step(stack, loss, again, engine=engine)
    optimizer = again
    both(2, 4)
    optimizer.load_member_state(1, others[1].state_dict())
    both(1, 5)
    freeze(1, 0, False)
    both(3, 6)
    if engine == "compiled":
        assert "is compiled" in str(ch.explain(step))
