"""Members of different structures in one Stack."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import chimera as ch


class Conditional(nn.Module):
    """Its forward depends on its own data, and it counts its calls."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, width), nn.Linear(width, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        h = self.inner(x)
        return self.out(torch.relu(h) if h.sum() > 0 else torch.tanh(h))


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda width: nn.Linear(4, 3),
    "wide": lambda width: nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)),
    "deep": lambda width: nn.Sequential(*[nn.Linear(4, 4) for _ in range(width)], nn.Linear(4, 3)),
    "tanh": lambda width: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
    "norm": lambda width: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)),
    "dropout": lambda width: nn.Sequential(nn.Dropout(width / 10), nn.Linear(4, 3)),
    "conditional": lambda width: Conditional(width),
}


@given(
    chosen=st.lists(
        st.tuples(st.sampled_from(sorted(KINDS)), st.integers(1, 3)), min_size=1, max_size=8
    ),
    own=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_any_mixture_equals_its_loop(chosen: list[tuple[str, int]], own: bool) -> None:
    torch.manual_seed(0)
    members = [KINDS[kind](width).double() for kind, width in chosen]
    stack = ch.Stack(members, seed=1)
    n = len(members)
    x = torch.randn(n, 6, 4).double() if own else torch.randn(6, 4).double()
    inputs = ch.each(x) if own else x
    ch.verify(stack, inputs, raises=True)
    outputs = stack(inputs)
    assert outputs.shape == (n, 6, 3)
    for i, member in enumerate(members):
        with ch.randomness(seed=1, member=i):
            torch.testing.assert_close(outputs[i], member(x[i] if own else x))


def test_training_a_mixture() -> None:
    torch.manual_seed(0)
    members = [KINDS[kind](width) for kind in KINDS for width in (2, 3, 2)]
    stack = ch.Stack(members, seed=4)
    optimizer = ch.optim.AdamW(stack, lr=torch.logspace(-3, -2, len(members)))
    x, y = torch.randn(8, 4), torch.randn(8, 3)
    ch.verify(stack, x, y, loss=nn.functional.mse_loss, optimizer=optimizer, steps=20, raises=True)


def test_members_stay_in_order_and_groups_are_named_by_first_appearance() -> None:
    widths = [2, 5, 2, 3, 5, 2]
    stack = ch.Stack([nn.Linear(1, width, bias=False) for width in widths])
    shapes = {name: tuple(p.shape) for name, p in stack.named_parameters()}
    assert shapes == {
        "groups.0.weight": (3, 2, 1),
        "groups.1.weight": (2, 5, 1),
        "groups.2.weight": (1, 3, 1),
    }
    assert [stack[i].out_features for i in range(6)] == widths
    assert [module.out_features for module in stack.modules_list()] == widths


def test_outputs_of_different_shapes_are_a_list_and_explain_says_so() -> None:
    members = [nn.Linear(3, width) for width in (2, 4, 2)]
    stack = ch.Stack(members)
    x = torch.randn(5, 3)
    assert "came as a list" not in str(ch.explain(stack))
    outputs = stack(x)
    assert isinstance(outputs, list)
    assert [tuple(output.shape) for output in outputs] == [(5, 2), (5, 4), (5, 2)]
    for member, output in zip(members, outputs, strict=True):
        torch.testing.assert_close(output, member(x))
    assert "outputs of the last call differ in shape or dtype; they came as a list" in str(
        ch.explain(stack)
    )
    ch.verify(stack, x, raises=True)


class Both(nn.Module):
    """Gives a tensor whose shape differs between members beside one whose shape does not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, width)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.linear(x)
        return {"all": y, "mean": y.mean(1)}


def test_only_the_leaves_that_differ_are_lists() -> None:
    outputs = ch.Stack([Both(2), Both(3), Both(2)])(torch.randn(5, 3))
    assert [tuple(y.shape) for y in outputs["all"]] == [(5, 2), (5, 3), (5, 2)]
    assert outputs["mean"].shape == (3, 5)


def test_outputs_of_different_nesting_are_a_list_of_the_members() -> None:
    stack = ch.Stack([Both(2), nn.Linear(3, 2)])
    outputs = stack(torch.randn(5, 3))
    assert isinstance(outputs, list)
    assert outputs[0].keys() == {"all", "mean"}
    assert outputs[1].shape == (5, 2)
    assert "came as a list" in str(ch.explain(stack))


def test_losses_of_members_with_different_outputs() -> None:
    stack = ch.Stack([nn.Linear(3, width) for width in (2, 4, 2)])
    step = ch.train_step(stack, lambda out: out.square().mean(), ch.optim.SGD(stack, lr=0.1))
    losses = step(torch.randn(5, 3))
    assert losses.shape == (3,)
    assert (step(torch.zeros(5, 3)) < losses.max() + 1).all()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ((nn.Linear(4, 6), nn.ReLU()), "0.weight: shape is (5, 4) against (6, 4)"),
        ((nn.Linear(4, 5), nn.Tanh()), "1: class is ReLU against Tanh"),
        ((nn.Linear(4, 5, bias=False), nn.ReLU()), "0.bias: kind"),
        ((nn.Linear(4, 5), nn.ReLU(), nn.ReLU()), "2: class"),
        ((nn.Linear(4, 5), nn.ReLU(True)), "1.inplace: value is False against True"),
        ((nn.Linear(4, 5).double(), nn.ReLU()), "0.weight: dtype is torch.float32"),
        ((nn.Linear(4, 5), nn.ReLU().eval()), "1: training is True against False"),
        ((nn.Linear(4, 5), nn.Dropout(0.0), nn.ReLU()), "1: class is ReLU against Dropout"),
    ],
)
def test_the_difference_is_named(other: tuple[nn.Module, ...], said: str) -> None:
    """By explain, for members of two groups; and by the error, for a module written back."""
    first = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    stack = ch.Stack([first, nn.Sequential(*other)])
    report = str(ch.explain(stack))
    assert "group 1: members of another structure than group 0: " in report
    assert said in report
    before = stack.state_dict()["groups.0.0.weight"].clone()
    with pytest.raises(ValueError, match="of the structure that the member has") as caught:
        stack[0] = nn.Sequential(*other)
    assert said in str(caught.value)
    assert torch.equal(stack.state_dict()["groups.0.0.weight"], before)


def test_a_member_index_out_of_range_says_the_range() -> None:
    stack = ch.Stack([nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(2, 2)])
    for use in (lambda i: stack[i], lambda i: stack.__setitem__(i, nn.Linear(2, 2))):
        for index in (3, -4):
            with pytest.raises(IndexError, match=f"member {index} of a stack of 3: pass -3 to 2"):
                use(index)
    with pytest.raises(TypeError, match=r"a member is named by its index, an int; got 'a'"):
        stack["a"]  # type: ignore[index]
    assert torch.equal(stack[-2].weight, stack[1].weight)


@pytest.mark.parametrize("shape", [(2, 5, 2), (4, 5, 2), ()])
def test_a_wrong_leading_axis_says_the_number_of_members(shape: tuple[int, ...]) -> None:
    stack = ch.Stack([nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(2, 2)])
    came = "shape .*" if shape else "a tensor without axes"
    with pytest.raises(ValueError, match=f"leading axis of 3, one entry a member, got {came}"):
        stack(ch.each(torch.ones(shape)))
    with pytest.raises(TypeError, match="needs a module"):
        stack[0] = torch.ones(2)  # type: ignore[assignment]


def test_each_reaches_members_of_every_group() -> None:
    members = [nn.Linear(2, width) for width in (2, 3, 2, 3)]
    xs = torch.randn(4, 5, 2)
    for i, output in enumerate(ch.Stack(members)(ch.each(xs))):
        torch.testing.assert_close(output, members[i](xs[i]))


def test_modes_per_member() -> None:
    members = [nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train(i % 2 == 0) for i in range(4)]
    stack = ch.Stack(members, seed=2)
    x = torch.randn(6, 3)
    outputs = stack(x)
    for i, member in enumerate(members):
        with ch.randomness(seed=2, member=i):
            torch.testing.assert_close(outputs[i], member(x))
    assert [stack[i].training for i in range(4)] == [True, False, True, False]


def test_a_frozen_row_stays_in_its_group() -> None:
    members = [nn.Linear(2, 2) for _ in range(3)]
    members[1].bias.requires_grad_(False)
    stack = ch.Stack(members)
    assert len(stack.groups) == 1
    ch.verify(
        stack, torch.randn(4, 2), loss=lambda out: out.square().mean(),
        optimizer=ch.optim.AdamW(stack, lr=0.1, weight_decay=0.1), steps=5, raises=True,
    )  # fmt: skip
