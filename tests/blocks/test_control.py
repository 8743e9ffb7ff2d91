"""While and Cond against Python's own while and if."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chimera as ch


def large(x):
    return x.abs().sum() > 1


def halved(x):
    return x / 2


@given(st.floats(-1e3, 1e3), st.integers(1, 12))
def test_while_is_the_loop_with_its_limit(start, limit):
    x = wanted = torch.tensor([start, 1.0], requires_grad=True)
    for _ in range(limit):
        if not large(wanted):
            break
        wanted = wanted / 2
    out = ch.While(large, halved, limit)(x)
    assert torch.equal(out, wanted)
    if wanted is not x:
        ours, theirs = (torch.autograd.grad(o.sum(), x)[0] for o in (out, wanted))
        assert torch.equal(ours, theirs)


def test_no_turn_gives_the_state_itself():
    x = torch.zeros(2)
    assert ch.While(large, halved, 5)(x) is x


def test_modules_are_registered_and_functions_kept():
    class Large(nn.Module):
        def forward(self, x):
            return x.norm() > 1

    net = ch.While(Large(), nn.Linear(2, 2), 5)
    assert list(net.state_dict()) == ["body.weight", "body.bias"]
    assert net(torch.rand(2) * 9).shape == (2,)
    net = ch.While(large, halved, limit=7)
    assert (net.condition, net.body, net.limit) == (large, halved, 7)
    assert "condition=large, body=halved, limit=7" in repr(net)


def test_the_state_may_be_a_tuple_and_the_answer_a_bool():
    net = ch.While(lambda s: s[0].item() < 3, lambda s: (s[0] + 1, s[1] * 2), 100)
    turns, x = net((torch.tensor(0), torch.ones(2)))
    assert turns == 3
    assert torch.equal(x, torch.full((2,), 8.0))


def test_an_infinite_state_ends_at_the_limit():
    assert ch.While(large, halved, 50)(torch.tensor([torch.inf])).isinf()


@given(st.floats(-2, 2))
def test_cond_is_the_if(start):
    x = torch.tensor([start], requires_grad=True)
    then, otherwise = nn.Linear(1, 1), nn.Identity()
    net = ch.Cond(large, then, otherwise)
    assert torch.equal(net(x), (then if abs(start) > 1 else otherwise)(x))
    assert list(net.state_dict()) == ["then.weight", "then.bias"]


def test_cond_hands_everything_to_all_three():
    net = ch.Cond(lambda a, b: a > b, lambda a, b: a - b, lambda a, b: b - a)
    assert net(torch.tensor(1.0), b=torch.tensor(3.0)) == 2
    assert "otherwise=<lambda>)" in repr(net)


@pytest.mark.parametrize(
    "make", [lambda c: ch.While(c, halved, 3), lambda c: ch.Cond(c, halved, halved)]
)
def test_a_condition_says_one_thing(make):
    x = torch.rand(2, 3)
    with pytest.raises(ValueError, match=r"tensor of shape \(2, 3\).*\.any\(\) or \.all\(\)"):
        make(lambda x: x > 1)(x)
    with pytest.raises(TypeError, match=r"condition gave 1 \(int\)"):
        make(lambda x: 1)(x)
    with pytest.raises(TypeError, match="condition gave None"):
        make(lambda x: None)(x)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: ch.While(nn.ReLU, halved, 3),
            TypeError,
            r"condition is the class nn\.ReLU; pass nn\.ReLU\(\)",
        ),
        (lambda: ch.While(large, None, 3), TypeError, "body is None; pass a module or a function"),
        (
            lambda: ch.While(large, nn.Linear(1, 1).forward, 3),
            TypeError,
            "'forward', a method of a Linear.*lost; pass the module",
        ),
        (
            lambda: ch.While(large, halved, 0),
            ValueError,
            "limit, the most turns, is 1 or more; got 0",
        ),
        (
            lambda: ch.While(large, halved, None),
            TypeError,
            "limit, the most turns, is an int; got None",
        ),
        (lambda: ch.While(large, halved), TypeError, "limit"),
        (
            lambda: ch.Cond(large, nn.ModuleList(), halved),
            TypeError,
            "then is a ModuleList, which has no forward",
        ),
        (lambda: ch.Cond(large, halved, 3), TypeError, "otherwise is 3"),
    ],
)
def test_mistakes_are_caught_when_the_block_is_made(make, error, words):
    with pytest.raises(error, match=words):
        make()
