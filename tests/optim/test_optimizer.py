"""What optimizers of a stack share: frozen rows, groups, set, messages, and what a step costs."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import chimera as ch

EVERY = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": [0.1, 0.2, 0.3], "momentum": [0.9, 0.0, 0.1]}),
    ("Adam", {"eps": 0.0}),
    ("Adam", {"lr": [0.1, 0.2, 0.3]}),
    ("AdamW", {"weight_decay": [0.5, 0.6, 0.7]}),
    ("AdamW", {"eps": [0.0, 1e-8, 1e-3], "betas": ([0.1, 0.2, 0.3], 0.9)}),
]


def give_gradients(stack, value=None):
    for one in stack.layout():
        grad = (
            torch.randn_like(one.parameter)
            if value is None
            else torch.full_like(one.parameter, value)
        )
        if one.frozen is not None:
            grad[one.frozen] = 0
        one.parameter.grad = grad


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_frozen_rows_never_move(layout_class, name, settings):
    stack = layout_class([[0, 2], [1]], [(2, 2), (2,)], frozen={1, 2})
    before = [stack.alone(member) for member in range(3)]
    given = {"weight_decay": 0.3} | settings
    optimizer = getattr(ch.optim, name)(stack, **given)
    for _ in range(3):
        give_gradients(stack)
        optimizer.step()
    for member, own in enumerate(before):
        for key, row in stack.rows(member).items():
            assert torch.equal(row, own[key]) == (member in {1, 2})


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_a_member_of_nans_leaves_the_others_alone(layout_class, name, settings):
    results = []
    for bad in (False, True):
        torch.manual_seed(0)
        stack = layout_class([[0, 1, 2]], [(2, 2)])
        optimizer = getattr(ch.optim, name)(stack, **settings)
        for step in range(4):
            give_gradients(stack)
            if bad and step == 1:
                stack.layout()[0].parameter.grad[1] = torch.nan
            optimizer.step()
        results.append(stack.layout()[0].parameter.detach())
    assert results[1][1].isnan().all()
    assert torch.equal(results[0][[0, 2]], results[1][[0, 2]])


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_what_a_step_calls_does_not_grow_with_the_members(layout_class, name):
    calls = []
    for n in (2, 40):
        stack = layout_class([list(range(n))], [(2, 2), (2,)])
        per_member = {"lr": torch.rand(n), "weight_decay": torch.rand(n)}
        other = {"momentum": torch.rand(n)} if name == "SGD" else {"betas": (torch.rand(n), 0.9)}
        optimizer = getattr(ch.optim, name)(stack, **per_member, **other)
        for _ in range(2):
            give_gradients(stack)
            with Count() as count:
                optimizer.step()
        calls.append(count.calls)
    assert calls[0] == calls[1]


def test_parameters_without_a_gradient_stay(layout_class):
    stack = layout_class([[0, 1]], [(2,), (3,)])
    optimizer = ch.optim.AdamW(stack, lr=0.1)
    give_gradients(stack)
    stack.layout()[0].parameter.grad = None
    before = stack.layout()[0].parameter.detach().clone()
    optimizer.step()
    assert torch.equal(stack.layout()[0].parameter, before)
    assert list(optimizer.state_dict()["state"]) == ["groups.0.layers.1.bias"]


def test_zero_grad(layout_class):
    stack = layout_class([[0, 1]], [(2,)])
    optimizer = ch.optim.SGD(stack)
    give_gradients(stack)
    optimizer.zero_grad(set_to_none=False)
    assert not stack.layout()[0].parameter.grad.any()
    optimizer.zero_grad()
    assert stack.layout()[0].parameter.grad is None
    optimizer.zero_grad(set_to_none=False)


def test_groups_have_settings_of_their_own(layout_class):
    stack = layout_class([[0, 2], [1]], [(2, 2), (2,), (3, 3)])
    chosen = stack.layout()[2].parameter
    optimizer = ch.optim.AdamW(
        stack,
        lr=[0.1, 0.2, 0.3],
        groups=[
            {"params": "**.bias", "weight_decay": 0.0, "betas": (0.5, 0.6)},
            {"params": [chosen, "groups.1.layers.2.weight"], "lr": 0.0},
        ],
    )
    names = [group["params"] for group in optimizer.settings]
    assert names == [
        ["groups.0.layers.0.weight", "groups.1.layers.0.weight"],
        ["groups.0.layers.1.bias", "groups.1.layers.1.bias"],
        ["groups.0.layers.2.weight", "groups.1.layers.2.weight"],
    ]
    assert optimizer.settings[1]["beta1"] == 0.5
    assert optimizer.settings[1]["lr"] == [0.1, 0.2, 0.3]
    assert optimizer.settings[0]["weight_decay"] == 0.01
    before = chosen.detach().clone()
    give_gradients(stack, 0.0)
    optimizer.step()
    assert torch.equal(chosen, before)
    optimizer.set(lr=0.5, group=2)
    assert [group["lr"] for group in optimizer.settings] == [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], 0.5]
    assert "group 2: 2 parameters, lr=0.5" in repr(optimizer)
    assert "lr=0.1 to 0.3" in repr(optimizer)


def test_set_names_members_as_the_stack_does(layout_class):
    optimizer = ch.optim.AdamW(layout_class([[0, 1, 2]], [(2,)]), lr=0.1)
    optimizer.set(lr=0.5, members=[-1])
    optimizer.set(betas=(0.1, [0.2, 0.3]), members=[1, 0])
    (group,) = optimizer.settings
    assert group["lr"] == [0.1, 0.1, 0.5]
    assert group["beta1"] == [0.1, 0.1, 0.9]
    assert group["beta2"] == [0.3, 0.2, 0.999]


def test_a_refused_set_changes_nothing(layout_class):
    optimizer = ch.optim.SGD(layout_class([[0, 1]], [(2,)]), momentum=0.9, nesterov=True)
    before = optimizer.settings
    for wrong in ({"lr": 0.2, "weight_decay": -1}, {"lr": 0.2, "momentum": 0.0}):
        with pytest.raises(ValueError):
            optimizer.set(**wrong)
        assert optimizer.settings == before


MISTAKES = [
    ({"lr": -0.1}, ValueError, r"lr is 0 or more, and finite; got -0\.1"),
    ({"lr": float("nan")}, ValueError, "got nan"),
    ({"lr": float("inf")}, ValueError, "got inf"),
    ({"lr": [0.1, float("nan"), 0.1]}, ValueError, "lr of member 1 is nan"),
    ({"weight_decay": [0.1, 0.1, -2]}, ValueError, "weight_decay of member 2 is -2"),
    ({"lr": [0.1, 0.2]}, ValueError, "lr .* the stack has 3 members, 2 values came"),
    ({"lr": torch.rand(3, 1)}, ValueError, r"shape \(3, 1\) came"),
    ({"lr": "big"}, TypeError, "lr is a number or one per member; got 'big'"),
    ({"lr": None}, TypeError, "got None"),
    ({"lr": True}, TypeError, "got True"),
    ({"lr": ["a", "b", "c"]}, TypeError, "lr is a number"),
    ({"betas": 0.9}, TypeError, r"betas is a pair, .*; got 0\.9"),
    ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] is from 0 to below 1; got 1"),
    ({"betas": ([0.9, 0.9, 1.5], 0.9)}, ValueError, r"betas\[0\] of member 2 is 1\.5"),
    ({"groups": {"params": "a"}}, TypeError, "groups is a list of dicts"),
    ({"groups": [{"lr": 1.0}]}, TypeError, r'groups\[0\] has no "params"'),
    (
        {"groups": [{"params": "**.bais"}]},
        ValueError,
        "'\\*\\*.bais' fits no parameter.*layers.1.bias",
    ),
    ({"groups": [{"params": [3]}]}, TypeError, "names, patterns or parameters .*got 3"),
    ({"groups": [{"params": [torch.rand(1)]}]}, ValueError, "a tensor is none of the stack"),
    (
        {"groups": [{"params": "**"}, {"params": "**.bias"}]},
        ValueError,
        r"is in groups\[0\] and groups\[1\]",
    ),
    (
        {"groups": [{"params": "**", "beta1": 0.3}]},
        TypeError,
        "no setting 'beta1'; it has betas, eps, lr, weight_decay",
    ),
    ({"groups": [{"params": "**", "lr": [0.1]}]}, ValueError, "1 values came"),
]


@pytest.mark.parametrize(("given", "error", "words"), MISTAKES)
def test_mistakes_are_caught_when_it_is_made(layout_class, given, error, words):
    with pytest.raises(error, match=words):
        ch.optim.AdamW(layout_class([[0, 2], [1]], [(2, 2), (2,)]), **given)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"lr": 0.1, "members": [3]}, ValueError, "no member 3; the stack has 3 members, 0 to 2"),
        ({"lr": 0.1, "members": 1}, TypeError, "members is a list of positions; got 1"),
        ({"lr": 0.1, "members": [1, -2]}, ValueError, "one member twice"),
        ({"lr": [1, 2, 3], "members": [1, 0]}, ValueError, "members= names 2, 3 values came"),
        ({"lr": [1, -2], "members": [2, 0]}, ValueError, "lr of member 0 is -2"),
        ({"lr": 0.1, "group": 1}, ValueError, "no parameter group 1; there are 1"),
        ({"rate": 0.1}, TypeError, "no setting 'rate'"),
    ],
)
def test_mistakes_in_set(layout_class, given, error, words):
    with pytest.raises(error, match=words):
        ch.optim.AdamW(layout_class([[0, 2], [1]], [(2, 2)])).set(**given)


def test_nesterov_needs_momentum(layout_class):
    with pytest.raises(ValueError, match="member 1 has momentum 0 and dampening 0"):
        ch.optim.SGD(layout_class([[0, 1]], [(2,)]), momentum=[0.9, 0.0], nesterov=True)


def test_takes_a_stack():
    with pytest.raises(
        TypeError, match=r"takes a Stack; got Linear: for one network use torch\.optim\.SGD"
    ):
        ch.optim.SGD(nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"got list: make one with ch\.Stack"):
        ch.optim.AdamW([nn.Linear(1, 1)])


def test_refuses_a_stack_without_parameters():
    with pytest.raises(ValueError, match="no parameters to train"):
        ch.optim.SGD(ch.Stack([nn.ReLU(), nn.ReLU()]))


def test_refuses_sparse_gradients(layout_class):
    stack = layout_class([[0, 1]], [(2,)])
    stack.layout()[0].parameter.grad = torch.zeros(2, 2, dtype=torch.float64).to_sparse()
    with pytest.raises(TypeError, match=r"gradient of groups\.0\.layers\.0\.bias is sparse"):
        ch.optim.Adam(stack).step()


@pytest.mark.parametrize("members", [["a"], [0.5], [None]])
def test_members_are_whole_positions(members):
    optimizer = ch.optim.SGD(ch.Stack([nn.Linear(3, 2) for _ in range(2)]))
    with pytest.raises(TypeError, match="SGD: members is a list of positions; got"):
        optimizer.set(lr=0.1, members=members)
