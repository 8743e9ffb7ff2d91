"""`check`: what it takes, how it orders, what it leaves out, and that it changes nothing."""

import copy
import dataclasses
import random
import sys
import threading
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import chimera as ch
from chimera.check.rule import all_rules


class Lists(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layers = [nn.Linear(width, width)]
        self.temperature = torch.tensor(1.0)
        self.activations = [nn.ReLU()]

    def forward(self, x):
        return self.layers[0](x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.out = nn.Linear(4, 4)

    def forward(self, x):
        return self.out(self.net(x))


class TwiceByLine(Twice):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(  # chimera: ignore[linear-after-linear]
            nn.Linear(4, 4), nn.Linear(4, 4)
        )


class TwiceByClass(Twice):  # chimera: ignore[linear-after-linear]
    def forward(self, x):
        return super().forward(2 * x)


class Silenced(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = [nn.Linear(2, 2)]  # chimera: ignore[unregistered-module, plain-tensor]
        self.b = [nn.Linear(2, 2)]  # chimera: ignore[plain-tensor]

    def forward(self, x):
        return x


class SilencedClass(nn.Module):  # chimera: ignore[unregistered-module]
    def __init__(self):
        super().__init__()
        self.a = [nn.Linear(2, 2)]
        self.scale = torch.ones(2)

    def forward(self, x):
        return x


class Fails(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, "four")


def rules(findings):
    return [finding.rule for finding in findings]


def test_the_worst_comes_first():
    findings = ch.check(nn.Sequential(Lists(), Lists()))
    assert [(f.severity, f.path) for f in findings] == [
        ("error", "0"),
        ("error", "1"),
        ("warning", "0"),
        ("warning", "1"),
        ("info", "0"),
        ("info", "1"),
    ]


def test_a_clean_network_has_no_findings():
    assert ch.check(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == []


def test_a_finding_is_readable():
    (finding,) = ch.check(Lists, ignore=["plain-tensor"])[:1]
    assert finding.file == __file__
    line = Lists.__init__.__code__.co_firstlineno + 2
    assert finding.line == line
    assert str(finding).splitlines() == [
        f"error [unregistered-module] at the root ({__file__}:{line})",
        "  `layers` (a list) holds 1 module (Linear) that nothing registers, with 2 tensors",
        "  why:  parameters(), state_dict(), .to() and train() do not reach it: it is not trained, "
        "not saved, not moved.",
        "  mend: Use nn.ModuleList, nn.ModuleDict or ch.Sequential for `layers`.",
    ]


def test_rules_are_left_out_by_name():
    assert rules(ch.check(Lists(), ignore=["unregistered-module"])) == ["plain-tensor"]
    assert rules(ch.check(Lists(), ignore="plain-tensor")) == ["unregistered-module"] * 2
    with pytest.raises(
        ValueError, match="ignore: there is no check rule 'typo'; there are: activation-"
    ):
        ch.check(Lists(), ignore=["typo"])


def test_a_comment_leaves_a_line_out():
    assert [finding.message[:3] for finding in ch.check(Silenced())] == ["`b`"]


def test_a_comment_leaves_a_class_out():
    assert rules(ch.check(nn.Sequential(SilencedClass()))) == ["plain-tensor"]


@pytest.mark.parametrize("factory", [Lists, partial(Lists, 3), lambda: Lists(5)])
def test_classes_and_factories_are_called_without_a_draw(factory):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert rules(ch.check(factory)) == [
        "unregistered-module",
        "plain-tensor",
        "unregistered-module",
    ]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_constructor_that_fails_is_a_finding():
    (finding,) = ch.check(Fails)
    assert (finding.rule, finding.severity, finding.path) == ("constructor-fails", "error", "Fails")
    assert "missing 1 required positional argument: 'width'" in finding.message
    (finding,) = ch.check(partial(Fails, 3))
    assert finding.message.startswith("partial(Fails)() raises TypeError")
    assert (finding.file, finding.line) == (__file__, Fails.__init__.__code__.co_firstlineno + 2)
    assert ch.check(Fails, ignore=["constructor-fails"]) == []


def test_a_constructor_that_needs_numbers_runs_for_real():
    def factory():
        if not torch.ones(1).item():
            raise AssertionError
        return Lists()

    assert len(ch.check(factory)) == 3


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match="module: expected a module, a class or a factory, got int"):
        ch.check(3)
    with pytest.raises(TypeError, match="module: dict returned dict, expected a module"):
        ch.check(dict)


def test_a_bare_shape_is_no_specification():
    with pytest.raises(TypeError, match="spec must be ch.spec"):
        ch.check(nn.Linear(2, 2), (2, 2))


def test_the_network_is_not_changed():
    net = nn.Sequential(Lists(), nn.Dropout(), nn.BatchNorm1d(4), nn.LazyLinear(3))
    attributes = [{**vars(part)} for part in net.modules()]
    state = copy.deepcopy(net[:3].state_dict())
    random = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ch.check(net, ch.spec(2, 4), loss=nn.CrossEntropyLoss())
    assert [{**vars(part)} for part in net.modules()] == attributes
    assert all(torch.equal(state[name], value) for name, value in net[:3].state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_classes_of_one_name_in_one_file_are_told_apart():
    def first():
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = [nn.Linear(2, 2)]

        return Net()

    def second():
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = [nn.Linear(2, 2)]  # chimera: ignore[unregistered-module]

        return Net()

    assert len(ch.check(first())) == 1
    assert ch.check(second()) == []


def test_classes_without_source_are_checked_by_their_attributes(tmp_path: Path):
    namespace = {"nn": nn}
    exec(
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = [nn.Linear(2, 2)]\n"
        "    def forward(self, x):\n"
        "        return x\n",
        namespace,
    )
    (finding,) = ch.check(namespace["Net"])
    assert (finding.rule, finding.file, finding.line) == ("unregistered-module", None, None)


def test_nothing_outside_of_the_network_is_changed():
    class Net(nn.Module):
        seen = []

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.lock = threading.Lock()
            self.calls = []

        def forward(self, x):
            self.seen.append(1)
            self.calls.append(1)
            return self.linear(x) * random.random() * np.random.rand()

    net, x = Net(), torch.randn(2, 4)
    net.linear.weight.grad = torch.ones(4, 4)
    net.linear.register_forward_hook(lambda module, args, output: None)
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    for given in (net, Net):
        ch.check(given, x)
    assert (Net.seen, net.calls, len(net.linear._forward_hooks), x._version) == ([], [], 1, 0)
    assert torch.equal(net.linear.weight.grad, torch.ones(4, 4))
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert np.array_equal(np.random.get_state()[1], states[2])


def test_an_error_of_a_rule_names_it(monkeypatch):
    rule = all_rules()["plain-tensor"]
    broken = dataclasses.replace(rule, find=lambda context: [1 / 0])
    module = sys.modules["chimera.check.check"]
    monkeypatch.setattr(module, "all_rules", lambda: {"plain-tensor": broken})
    with pytest.raises(ZeroDivisionError) as caught:
        ch.check(Lists)
    assert caught.value.__notes__ == [
        'in the check rule plain-tensor: ignore=["plain-tensor"] leaves it out'
    ]
    assert ch.check(Lists, ignore=["plain-tensor"]) == []


def test_rules_share_their_runs():
    runs = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            runs.append(x.is_meta)
            return self.two(torch.relu(self.one(x)))

    assert ch.check(Counted, ch.spec("batch", 4)) == []
    assert runs.count(True) == 1
    # Both modes, a changed row, one row, one more row, a loaded copy, and three calls in a
    # row, and what the output makes of the input.
    assert len(runs) <= 11
    runs.clear()
    ch.summary(Counted, ch.spec("batch", 4))
    assert runs.count(True) == 1


def test_modes_of_torch_that_a_forward_sets_for_good_are_put_back():
    class SetsModes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            return self.linear(x)

    for examined in (SetsModes(), SetsModes):
        ch.check(examined, ch.spec(2, 4))
        assert torch.get_default_dtype() == torch.float32
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("loss", ["mse", nn.MSELoss, 3])
def test_a_loss_is_a_module_or_a_function(loss):
    with pytest.raises(TypeError, match=r"loss must be a module or a function.*; got "):
        ch.check(nn.Linear(4, 2), ch.spec("batch", 4), loss=loss)


def test_a_comment_speaks_for_the_layer_that_is_made_there():
    def paths(net):
        found = ch.check(net, ch.spec(2, 4))
        return [f.path for f in found if f.rule == "linear-after-linear"]

    assert paths(Twice) == ["net.1", "out"]
    assert paths(TwiceByLine) == ["out"]
    assert paths(nn.Sequential(TwiceByClass())) == []


def test_a_lazy_network_that_does_not_fit_is_a_finding():
    net = nn.Sequential(nn.LazyLinear(8), nn.Linear(4, 2))
    rules = {finding.rule for finding in ch.check(net, ch.spec("batch", 5))}
    assert "does-not-run" in rules


def test_complex_parameters_are_compared():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.randn(5, 3, dtype=torch.complex64))
            self.other = nn.Parameter(self.one.detach().clone())

        def forward(self, x):
            return ((x @ self.one) * (x @ self.other)).abs()

    findings = ch.check(Net, ch.spec("batch", 5, dtype=torch.complex64))
    assert [(f.rule, f.severity) for f in findings] == [("equal-instances", "warning")]


def test_a_loop_on_its_own_numbers_that_never_ends_is_found_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("turns", torch.tensor(0.0))

        def forward(self, x):
            while self.turns < 1:
                self.turns = self.turns + 0
            return x

    found = [f for f in ch.check(Net, ch.spec("batch", 5)) if f.rule == "does-not-run"]
    assert [f.severity for f in found] == ["warning"]
    assert "comes to no end" in found[0].message
