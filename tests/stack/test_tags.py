"""What stands on a tensor itself is carried to whatever stands in its place."""

import copy
import pickle
import weakref

import pytest
import torch
from torch import nn

import chimera as ch

X = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Tagged(nn.Module):
    """A parameter and a buffer with tags, which forward asks for."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.layer.weight.gain = 3.0
        self.register_buffer("scale", torch.ones(4, dtype=torch.float64))
        self.scale.unit = "m"

    def forward(self, x):
        gain = getattr(self.layer.weight, "gain", 1.0)
        return self.layer(x) * gain * (2.0 if getattr(self.scale, "unit", "") == "m" else 1.0)


class TaggedAlone(Tagged):
    def forward(self, x):
        return super().forward(x) + x.detach().numpy().sum()


@pytest.mark.parametrize("kind", [Tagged, TaggedAlone])
def test_as_alone(agree, members, kind):
    agree(members(kind, 4), ch.each(X))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda stack: pickle.loads(pickle.dumps(stack))])
def test_copies_have_them(members, again):
    stack = ch.Stack(members(Tagged, 3))
    torch.testing.assert_close(again(stack)(X[0]), stack(X[0]))
    for member in (stack[1], again(stack)[1]):
        assert member.layer.weight.gain == 3.0
        assert member.scale.unit == "m"
    ch.verify(stack, X[0], raises=True)


def test_members_with_other_tags_are_of_another_structure(members):
    nets = members(Tagged, 3)
    nets[2].layer.weight.gain = 5.0
    stack = ch.Stack(nets)
    torch.testing.assert_close(stack(X[0]), torch.stack([net(X[0]) for net in nets]))
    assert "layer.weight: tag gain is 3.0 against 5.0" in str(ch.explain(stack))
    with pytest.raises(ValueError, match="tag gain is 3.0 against 5.0"):
        stack[0] = nets[2]


class TagsLater(Tagged):
    def forward(self, x):
        self.layer.weight.gain = self.layer.weight.gain + 1
        return super().forward(x)


class TagsAnew(Tagged):
    def forward(self, x):
        self.layer.bias.seen = True
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "where"), [(TagsLater, "layer.weight: .*'gain'"), (TagsAnew, "layer.bias: .*'seen'")]
)
def test_tags_set_in_forward_are_refused(members, kind, where):
    stack = ch.Stack(members(kind, 3))
    with pytest.raises(TypeError, match=f"{where}.*keep it in an attribute of the module"):
        stack(X[0])


class HeldWeakly(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.found = {"weight": weakref.ref(self.layer.weight)}


class Keyed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.rates = [{self.layer.weight: 2.0}]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (HeldWeakly, r"modules\[0\]: found is a weak reference to a tensor"),
        (Keyed, r"modules\[0\]: rates has a tensor as a key"),
    ],
)
def test_tensors_that_cannot_be_exchanged_are_refused(members, kind, text):
    with pytest.raises(ValueError, match=text):
        ch.Stack(members(kind, 2))
