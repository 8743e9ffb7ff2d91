"""The five duties of a module, each broken in turn, and the others still told."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import chimera as ch
from chimera.check.contract import GIVES, GRADIENTS, INITIALIZED, REGISTERED, TAKES


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.LazyLinear(8)
        self.dropout = nn.Dropout()
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.norm(self.dropout(F.relu(self.hidden(x)))))


class Detached(Whole):
    def forward(self, x):
        return self.out(self.norm(self.hidden(x)).detach())


class Unused(Whole):
    def forward(self, x):
        return self.out(self.hidden(x))


class Class(Whole):
    def forward(self, x):
        return super().forward(x).argmax(1)


class Silent(Whole):
    def forward(self, x):
        super().forward(x)


class Lost(Whole):
    def __init__(self):
        super().__init__()
        self.extra = [nn.Linear(3, 3)]

    def forward(self, x):
        return self.extra[0](super().forward(x))


class Nan(Whole):
    def __init__(self):
        super().__init__()
        self.out.weight.data.fill_(float("nan"))


class Misfit(Whole):
    def forward(self, x):
        return self.out(x)


def done(contract):
    return [duty.done for duty in contract.duties]


@pytest.mark.parametrize(
    ("kind", "broken", "said"),
    [
        (Whole, None, ""),
        (Misfit, TAKES, "wanted: float32 [..., 8]"),
        (Silent, GIVES, "returns NoneType"),
        (Detached, GRADIENTS, "input 0, hidden.weight, hidden.bias, norm.weight, norm.bias"),
        (Unused, GRADIENTS, "none reaches norm.weight, norm.bias"),
        (Class, GRADIENTS, "no output has a gradient"),
        (Lost, REGISTERED, "`extra` (a list) holds 1 module (Linear)"),
        (Nan, INITIALIZED, "NaN or Inf in out.weight"),
    ],
)
def test_each_duty_is_told(kind, broken, said):
    contract = ch.contract(kind, ch.spec("batch", 5))
    assert contract.kept is (broken is None)
    if broken is not None:
        assert contract[broken].done is False
        assert said in contract[broken].message
        assert f"NO   {broken}: " in str(contract)
    held = {TAKES, GIVES, GRADIENTS, REGISTERED, INITIALIZED}
    if broken in (TAKES, GIVES):
        assert contract[GRADIENTS].done is not True
        held -= {GIVES, GRADIENTS, INITIALIZED}  # a lazy layer that was never reached
    assert all(contract[name].done for name in held - {broken})


def test_the_paths_that_no_gradient_reaches():
    contract = ch.contract(Unused(), ch.spec(4, 5))
    assert contract[GRADIENTS].paths == ("norm.weight", "norm.bias")


def test_frozen_parameters_are_named_and_need_no_gradient():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].bias.requires_grad_(False)
    contract = ch.contract(net, ch.spec(3, 2))
    assert contract.kept
    assert contract[GRADIENTS].message.endswith("frozen: 0.bias")


def test_integers_and_several_inputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 4)

        def forward(self, tokens, scale, mask=None):
            return {"out": (self.embedding(tokens) * scale).masked_fill(~mask[..., None], 0.0)}

    inputs = ch.inputs(
        ch.spec(2, 3, dtype=torch.int64), torch.ones(4), mask=ch.spec(2, 3, dtype=torch.bool)
    )
    contract = ch.contract(Net, inputs)
    assert contract.kept, str(contract)


def test_conditions_on_data_run():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.LazyLinear(20)

        def forward(self, x):
            x = self.linear(x)
            while x.abs().sum() > 1:
                x = x / 2
            return x.sum()

    assert ch.contract(Net, ch.spec(2, 20)).kept


def test_nothing_is_changed():
    net = Whole()
    before, random = copy.deepcopy(net), torch.random.get_rng_state()
    ch.contract(net, ch.spec(4, 5))
    assert repr(net) == repr(before)
    assert torch.equal(net.norm.running_mean, before.norm.running_mean)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="module: the factory returned dict, expected a module"):
        ch.contract(dict, ch.spec(2))
    with pytest.raises(TypeError, match="module: expected a module, a class or a factory, got int"):
        ch.contract(3, ch.spec(2))
    with pytest.raises(KeyError, match="there is no duty 'x'; there are: takes its inputs"):
        ch.contract(nn.ReLU(), ch.spec(2))["x"]
    with pytest.raises(TypeError, match="spec must be"):
        ch.contract(nn.ReLU(), 3)


def test_what_cannot_be_copied_is_kept_and_class_containers_are_left_as_they_were():
    class Net(nn.Module):
        seen = []

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3)
            self.lock = threading.Lock()

        def forward(self, x):
            self.seen.append(len(x))
            return self.linear(x)

    assert ch.contract(Net(), ch.spec("batch", 5)).kept
    assert Net.seen == []
