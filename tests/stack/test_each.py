"""``each``: what is marked, what an axis must be, and the errors that say it."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.stack.each import Arguments, arguments


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x, extra=None):
        value = self.layer(x if isinstance(x, torch.Tensor) else x["a"][0])
        return value if extra is None else value * extra


STACK = ch.Stack([Net() for _ in range(4)])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3, 2), r"needs a leading axis of 4, one entry a member, got shape \(3, 2\)"),
        (torch.zeros(2, 4), r"of 4, one entry a member, got shape \(2, 4\)"),
        (torch.zeros(()), "of 4, one entry a member, got a tensor without axes"),
        ({"a": [torch.zeros(5, 2)]}, r"got shape \(5, 2\); leave out each"),
    ],
)
def test_a_wrong_leading_axis_says_n_and_what_came(value, said):
    with pytest.raises(ValueError, match=said):
        STACK(ch.each(value))
    with pytest.raises(ValueError, match=said):
        STACK(torch.zeros(3, 2), extra=ch.each(value))


@pytest.mark.parametrize("value", [3, "text", None, [], {"a": 1}, [1, 2]])
def test_each_of_no_tensor(value):
    with pytest.raises(TypeError, match=r"each\(\.\.\.\) needs a tensor"):
        ch.each(value)


def test_each_of_each_and_of_inputs():
    marked = ch.each(torch.zeros(4, 2))
    with pytest.raises(TypeError, match="marked by each"):
        ch.each(marked)
    with pytest.raises(TypeError, match=r"mark the arguments instead"):
        ch.each(ch.inputs(torch.zeros(4, 2)))
    assert "each(tensor" in repr(marked)


def test_marks_inside_a_nest_and_around_it():
    x = torch.randn(4, 3, 2)
    expected = torch.stack([module(x[i]) for i, module in enumerate(STACK)])
    for given in (
        ch.each(x),
        ch.each({"a": [x]}),
        {"a": [ch.each(x)]},
        {"a": ch.each([x, "text", 3])},
    ):
        assert torch.allclose(STACK(given), expected, atol=1e-6)


def test_each_member_its_own_row_and_gradient():
    x = torch.randn(4, 3, 2, requires_grad=True)
    out = STACK(ch.each(x))
    out[2].sum().backward()
    assert x.grad[2].any()
    assert not x.grad[[0, 1, 3]].any()


@dataclass
class Batch:
    x: torch.Tensor
    name: str


def test_arguments_flatten_and_rebuild():
    x = torch.randn(4, 2)
    given = arguments((ch.each(Batch(x, "a")), [1, x]), {"k": {"z": None}}, 4)
    assert given.own == [True, False, False, False, False]
    args, kwargs = given.rebuild(given.leaves)
    assert args == (Batch(x, "a"), [1, x])
    assert kwargs == {"k": {"z": None}}
    args, _ = given.copies(2)
    assert torch.equal(args[0].x, x[2])
    assert args[1][1].data_ptr() != x.data_ptr()


def test_inputs_stand_for_their_arguments():
    x = torch.randn(4, 2)
    given = arguments((ch.inputs(ch.each(x), k=2),), {}, 4)
    assert given.own == [True, False]
    assert given.rebuild(given.leaves) == ((x,), {"k": 2})


def test_taking_some_members():
    x, shared = torch.randn(4, 2), torch.randn(3)
    given = arguments((ch.each(x), shared), {}, 4)
    taken = given.take(torch.tensor([3, 1]))
    assert torch.equal(taken.leaves[0], x[[3, 1]])
    assert taken.leaves[1] is shared
    assert given.take(None) is given
    assert isinstance(given.cloned(), Arguments)
    assert given.cloned().leaves[1] is not shared


def test_what_a_plan_may_depend_on():
    x = torch.randn(4, 2)

    def kind(*args, **kwargs):
        return arguments(args, kwargs, 4).kind

    assert kind(x) == kind(torch.randn(3, 9))
    assert kind(x) != kind(ch.each(x))
    assert kind(x) != kind(x.double())
    assert kind(x) != kind([x])
    assert kind(x, 1) == kind(x, 2)
    assert kind(x, 1) != kind(x, "a")

    def familiar(*args):
        return arguments(args, {}, 4).familiar

    assert familiar(x, 1) != familiar(x, 2)
    assert familiar(x) != familiar(torch.randn(3, 2))
    assert familiar(x, object) == familiar(x, object)
    assert familiar(x, slice) is not None
    assert familiar(bytearray()) is None
