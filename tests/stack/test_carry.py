"""What members carry from call to call, in another process: containers under several names."""

import json
import math

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.stack.carry import Carried, Uncarriable


class Shares(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.seen = self.layer.seen = [0]

    def forward(self, x):
        self.layer.seen.append(1)
        return self.layer(x) * len(self.seen)


class Makes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        self.seen = self.layer.seen = [1]
        return self.layer(x)


def test_one_list_under_two_names_is_one_after_it_was_put_back():
    modules = ch.instances(Shares, 3, seed=0)
    stack, other = ch.Stack(modules), ch.Stack(modules)
    x = torch.ones(1, 2)
    carried, again = Carried(stack), Carried(other)
    stack(x)
    again.put(carried.take())
    for _ in range(2):
        assert torch.equal(other(x), stack(x))
    member = other[1]
    assert member.seen == [0, 1, 1, 1]
    assert member.layer.seen is member.seen


class Notes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.held, self.counts = nn.Linear(2, 2), None, {1: 0}

    def forward(self, x):
        self.counts[1] += 1
        self.held = (x.shape, (1, 2), [2.5, -math.inf], {3: x.dtype, "a": [True, None]}, {4}, b"5")
        return self.layer(x)


@pytest.mark.parametrize("count", [1, 3])
def test_what_calls_note_comes_back_as_the_same_types(count):
    modules = ch.instances(Notes, count, seed=0)
    stack, other = ch.Stack(modules), ch.Stack(modules)
    carried, again = Carried(stack), Carried(other)
    stack(torch.ones(1, 2))
    (state,) = carried.take()
    state.attributes = json.loads(json.dumps(state.attributes))
    again.put([state])
    for member in other:
        assert repr(member.held) == repr(stack[0].held)
        assert type(member.held[0]) is torch.Size
        assert member.counts == {1: 1}


def test_an_object_in_a_tuple_is_refused():
    stack = ch.Stack(ch.instances(Makes, 2, seed=0))
    carried = Carried(stack)
    for _, module in stack._groups[0].reading.modules:
        module.__dict__["note"] = (object(),)
    with pytest.raises(Uncarriable, match=r"note: a call changed this attribute to a tuple"):
        carried.take()


def test_one_that_a_call_let_stand_in_two_places_is_refused():
    stack = ch.Stack(ch.instances(Makes, 3, seed=0))
    carried = Carried(stack)
    stack(torch.ones(1, 2))
    with pytest.raises(Uncarriable, match=r"seen: a call let one object stand here and at layer.s"):
        carried.take()
