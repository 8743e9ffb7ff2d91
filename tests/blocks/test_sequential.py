"""Sequential against plain torch, and every mistake that it catches."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chimera as ch


class TwoInTwoOut(nn.Module):
    def forward(self, a, b=None):
        return a + 1, (a if b is None else b) * 2


def layers(n):
    torch.manual_seed(n)
    return [nn.Linear(3, 3) for _ in range(n)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_runs_and_saves_as_torch_does_also_with_a_layer_that_stands_twice(order):
    pool = layers(4)
    ours, theirs = (kind(*(pool[i] for i in order)) for kind in (ch.Sequential, nn.Sequential))
    x = torch.rand(2, 3)
    assert torch.equal(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [id(p) for p in ours.parameters()] == [id(p) for p in theirs.parameters()]


def test_a_dict_names_the_children_in_its_order():
    net = ch.Sequential({"out": nn.Linear(3, 4), "act": nn.ReLU(), "a": nn.Linear(4, 2)})
    assert list(net.state_dict()) == ["out.weight", "out.bias", "a.weight", "a.bias"]
    assert net(torch.rand(5, 3)).shape == (5, 2)
    assert net.act is net[1]


def test_the_first_takes_every_input_and_a_tuple_goes_on_as_one_value():
    net = ch.Sequential(TwoInTwoOut(), nn.Identity())
    a, b = torch.ones(2), torch.full((2,), 5.0)
    assert isinstance(net(a, b=b), tuple)
    assert torch.equal(net(a, b)[1], b * 2)
    with pytest.raises(TypeError):
        ch.Sequential(TwoInTwoOut(), TwoInTwoOut())(a, b)


def test_splat_unpacks_tuples():
    a, b = torch.ones(2), torch.full((2,), 5.0)
    net = ch.Sequential(TwoInTwoOut(), TwoInTwoOut(), splat=True)
    assert torch.equal(net(a, b)[0], a + 2)
    assert torch.equal(net((a, b))[1], b * 4)
    assert "splat=True" in repr(net)
    assert net[:1].splat


def test_empty_gives_its_one_input_back():
    x = torch.rand(2)
    assert ch.Sequential()(x) is x
    with pytest.raises(TypeError, match="takes one input"):
        ch.Sequential()(x, x)


@given(st.data())
def test_changes_as_a_list_does(data):
    pool = layers(5)
    net, model = ch.Sequential(*pool[:3]), list(pool[:3])
    for _ in range(data.draw(st.integers(1, 8))):
        what = data.draw(st.sampled_from(["append", "insert", "del", "set", "extend", "del slice"]))
        new = pool[data.draw(st.integers(0, 4))]
        if what == "append":
            net.append(new), model.append(new)
        elif what == "extend":
            net.extend([new, new]), model.extend([new, new])
        elif what == "insert":
            at = data.draw(st.integers(-7, 7))
            net.insert(at, new), model.insert(at, new)
        elif what == "del slice":
            a, b = data.draw(st.integers(-3, 3)), data.draw(st.integers(-3, 3))
            del net[a:b], model[a:b]
        elif model:
            at = data.draw(st.integers(-len(model), len(model) - 1))
            if what == "del":
                del net[at], model[at]
            else:
                net[at] = model[at] = new
        assert list(net) == model
        assert len(net) == len(model)
        assert all(module in net for module in model)
        assert [name for name, _ in net.named_children()] == list(
            {id(m): str(i) for i, m in reversed(list(enumerate(model)))}.values()
        )[::-1] or len({id(m) for m in model}) < len(model)
        cut = data.draw(st.slices(max(len(model), 1)))
        assert list(net[cut]) == model[cut]


class Deep(ch.Sequential):
    def __init__(self, width):
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


def test_a_slice_of_a_subclass_is_a_plain_sequential_of_the_same_modules():
    net = Deep(3)
    part = net[1:]
    assert type(part) is ch.Sequential
    assert part[1] is net[2] is net[-1]
    assert list(part.state_dict()) == ["1.weight", "1.bias"]
    assert nn.Linear(1, 1) not in net


def test_a_named_chain_keeps_its_names():
    a, b, c = layers(3)
    net = ch.Sequential({"a": a, "b": b})
    net.append(c, "c").insert(0, nn.ReLU(), "first")
    assert [name for name, _ in net.named_children()] == ["first", "a", "b", "c"]
    del net[1]
    net[-1] = nn.Tanh()
    assert [name for name, _ in net.named_children()] == ["first", "b", "c"]
    assert [name for name, _ in net[1:].named_children()] == ["b", "c"]
    net.extend({"d": a})
    assert net.d is a
    assert [name for name, _ in ch.Sequential().append(a, "a").named_children()] == ["a"]
    with pytest.raises(ValueError, match="'b' is there already"):
        net.append(a, "b")
    with pytest.raises(ValueError, match="give name="):
        net.append(a)
    assert [name for name, _ in net.named_children()] == ["first", "b", "c", "d"]


def test_copies_and_pickles():
    net = ch.Sequential({"a": nn.Linear(2, 2)}, splat=True)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other.a.weight, net.a.weight)
        assert other.splat


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: ch.Sequential(nn.Linear(1, 1), nn.ReLU),
            TypeError,
            r"child 1 is the class nn\.ReLU; pass nn\.ReLU\(\), an instance",
        ),
        (lambda: ch.Sequential(Deep), TypeError, r"the class Deep; pass Deep\(\)"),
        (
            lambda: ch.Sequential(torch.relu),
            TypeError,
            "child 0 is the function 'relu', not a module",
        ),
        (
            lambda: ch.Sequential([nn.ReLU()]),
            TypeError,
            r"a list; unpack it: Sequential\(\*modules\)",
        ),
        (lambda: ch.Sequential(nn.ReLU() for _ in range(2)), TypeError, "unpack it"),
        (lambda: ch.Sequential(nn.ModuleList()), TypeError, "ModuleList; unpack it"),
        (lambda: ch.Sequential(nn.ReLU(), nn.ModuleDict()), TypeError, "child 1 .*no forward"),
        (lambda: ch.Sequential(None), TypeError, "child 0 is None"),
        (lambda: ch.Sequential(nn.ReLU(), 3), TypeError, r"child 1 is 3 \(int\)"),
        (lambda: ch.Sequential({"a": nn.ReLU}), TypeError, "child 'a' is the class"),
        (lambda: ch.Sequential({"a.b": nn.ReLU()}), ValueError, "no dot"),
        (lambda: ch.Sequential({"": nn.ReLU()}), ValueError, "not empty"),
        (lambda: ch.Sequential({1: nn.ReLU()}), TypeError, r"1 \(int\)"),
        (lambda: ch.Sequential({"append": nn.ReLU()}), ValueError, "'append' is an attribute"),
        (lambda: ch.Sequential({"splat": nn.ReLU()}), ValueError, "attribute"),
        (lambda: ch.Sequential(nn.ReLU()).append(nn.ReLU), TypeError, "pass nn.ReLU"),
        (lambda: ch.Sequential(nn.ReLU()).append(nn.ReLU(), "a"), ValueError, "without a name"),
        (lambda: ch.Sequential(nn.ReLU())[1], IndexError, "no module at position 1; there are 1"),
        (lambda: ch.Sequential(nn.ReLU())["a"], TypeError, "a position is an int; got 'a'"),
        (lambda: ch.Sequential(nn.ReLU()).__setitem__(0, nn.ReLU), TypeError, "class"),
    ],
)
def test_mistakes_are_caught_when_the_block_is_made(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_chain_cannot_contain_itself():
    net = ch.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match="contains this chain"):
        net.append(nn.Sequential(net))
    assert len(net) == 1


def test_a_position_that_is_no_int_leaves_the_chain_as_it_was():
    chain = ch.Sequential({"first": nn.Linear(3, 3)})
    with pytest.raises(TypeError, match="Sequential: a position is an int; got 'x'"):
        chain.insert("x", nn.Linear(3, 3), "second")
    assert list(chain._modules) == ["first"]
