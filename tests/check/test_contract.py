"""The five duties of a module, each broken in turn, and the others still told."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import chimera as ch
from chimera.check.duties import GIVES, GRADIENTS, INITIALIZED, REGISTERED, TAKES


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


class Filled(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.weight = nn.Parameter(values)

    def forward(self, x):
        return x @ self.weight


class Empty(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(5, 2))

    def forward(self, x):
        return x @ self.weight


def test_initialization_is_judged_as_check_judges_it():
    assert ch.contract(Filled(torch.rand(5, 2)), ch.spec(3, 5)).kept
    for module, said in (
        (Empty, "`weight` is memory that nothing fills"),
        (lambda: Filled(torch.ones(5, 2)), "every number of `weight` is 1"),
    ):
        duty = ch.contract(module, ch.spec(3, 5))[INITIALIZED]
        assert duty.done is False
        assert said in duty.message


class ToArray(Whole):
    def forward(self, x):
        return torch.from_numpy(self.hidden(x).detach().numpy() * 2)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        return self.linear(x.mul_(2))


class ArrayOfInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        return self.linear(torch.from_numpy(x.numpy() * 2))


class SpoilsBackward(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        y = self.linear(x).sigmoid()
        return y.square() + y.mul_(2)


def test_a_real_run_decides_what_is_taken():
    said = ch.contract(ToArray(), ch.spec("batch", 5))
    assert done(said) == [True, True, False, True, True]
    said = ch.contract(InPlace(), ch.spec("batch", 5))
    assert said.kept
    assert said[TAKES].message.endswith("; it changes input 0 in place")
    said = ch.contract(ArrayOfInput(), ch.spec("batch", 5))
    assert done(said) == [True, True, False, True, True]
    assert "forward raises on an input that asks for one: RuntimeError" in said[GRADIENTS].message
    said = ch.contract(SpoilsBackward(), ch.spec("batch", 5))
    assert done(said) == [True, True, False, True, True]
    assert "the backward pass raises RuntimeError" in said[GRADIENTS].message


def test_made_up_numbers_that_are_refused_decide_nothing():
    class Above(nn.Module):
        def forward(self, x):
            if (x < 5).any():
                raise ValueError("prices are above 5")
            return x

    said = ch.contract(Above(), ch.spec(3, 5))
    assert done(said) == [None, None, None, True, True]
    assert "raises on standard normal numbers; give examples: ValueError" in said[TAKES].message
    assert ch.contract(Above(), torch.full((3, 5), 6.0)).kept
    assert ch.contract(Above(), torch.ones(3, 5))[TAKES].done is False


class NoSuper(nn.Module):
    def __init__(self):
        self.linear = nn.Linear(5, 3)


def test_what_cannot_be_made_is_told_duty_by_duty():
    said = ch.contract(NoSuper, ch.spec(3, 5))
    assert done(said) == [None, None, None, False, None]
    assert "the constructor raises AttributeError: cannot assign module" in said[TAKES].message
    said = ch.contract(NoSuper.__new__(NoSuper), ch.spec(3, 5))
    assert "nn.Module.__init__ never ran in NoSuper" in said[GIVES].message
    hides = nn.Linear(5, 3)
    hides.__dict__["modules"] = 3
    said = ch.contract(hides, ch.spec(3, 5))
    assert "an attribute hides modules()" in said[GIVES].message


def test_without_numbers_the_shapes_tell():
    said = ch.contract(nn.Linear(5, 3, device="meta"), ch.spec(4, 5))
    assert done(said) == [True, True, None, True, False]
    assert said[GIVES].message == "[4, 3]"
    assert "on the meta device: weight, bias" in said[INITIALIZED].message


def test_a_lazy_network_that_needs_numbers_is_built_with_some():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.LazyLinear(3)

        def forward(self, x):
            return self.linear(x) * float(x.detach().numpy().max())

    assert ch.contract(Net, ch.spec("batch", 5)).kept


def test_the_end_of_a_loop_is_not_waited_for():
    class Endless(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 5)

        def forward(self, x):
            while x.sum() < 1e9:
                x = self.linear(x).tanh()
            return x

    said = ch.contract(Endless(), ch.spec(3, 5))
    assert done(said) == [None, None, None, True, True]
    assert "DidNotEnd" in said[TAKES].message
