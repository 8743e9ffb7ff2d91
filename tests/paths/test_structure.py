"""What ``read`` finds in a module, and in what two modules differ."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from chimera.paths.differing import describe_difference
from chimera.paths.structure import (
    HOOKS,
    difference,
    own_attributes,
    read,
)


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.one = nn.Linear(2, width)
        self.two = nn.Linear(width, 2, bias=False)
        self.again = self.one
        self.two.register_buffer("mask", torch.ones(2), persistent=False)
        self.register_buffer("none", None)
        self.table = {"a": [torch.zeros(2), self.one.weight], "n": 3}
        self.layers = [self.one, nn.LayerNorm(2)]
        self.act = F.relu


def told(one, other):
    pair = difference(read(one), read(other))
    return None if pair is None else describe_difference(pair)


class TestReading:
    def test_tensors_in_order_with_all_their_places(self):
        net = Net()
        slots = read(net).slots
        assert [slot.path for slot in slots] == [
            *("one.weight", "one.bias", "two.weight", "two.mask"),
            *("table['a'][0]", "layers[1].weight", "layers[1].bias"),
        ]
        weight = slots[0]
        assert [(p.module, p.kind, p.name, p.leaf) for p in weight.places] == [
            (1, "parameter", "weight", 0),
            (0, "attribute", "table", 1),
        ]
        assert [slot.kind for slot in slots] == [
            *("parameter", "parameter", "parameter", "buffer", "attribute"),
            *("parameter", "parameter"),
        ]
        assert [slot.hidden for slot in slots] == [False] * 4 + [True] * 3
        assert [slot.persistent for slot in slots] == [True] * 3 + [False] + [True] * 3
        assert all(
            slot.tensor is t for slot, t in zip(slots[:2], net.one.parameters(), strict=True)
        )

    def test_modules_once_hidden_ones_last(self):
        paths = [path for path, _ in read(Net()).modules]
        assert paths == ["", "one", "two", "layers[1]"]

    def test_attributes_of_ones_own(self):
        assert set(own_attributes(Net())) == {"table", "layers", "act"}

    def test_hooks_that_fire(self):
        net = Net()
        assert read(net).hooks == []
        net.one.register_forward_hook(print)
        net.two.register_full_backward_hook(print)
        net.register_forward_pre_hook(print)
        net.register_state_dict_post_hook(lambda *_: None)
        net.register_load_state_dict_pre_hook(print)
        assert read(net).hooks == ["", "one", "two"]

    def test_lazy_parameters_have_no_shape(self):
        facts = {(f.path, f.name): f.value for f in read(nn.LazyLinear(3)).facts}
        assert facts["weight", "shape"] is None

    def test_a_module_that_contains_itself(self):
        net = nn.Module()
        net.child = nn.Linear(1, 1)
        net.child.owner = [net]
        net.loop = [1]
        net.loop.append(net.loop)
        assert len(read(net).modules) == 2
        assert told(net, net) is None

    def test_tensors_in_closures_of_functions(self):
        net = nn.Linear(2, 2)
        weight, outside = net.weight, torch.ones(2)
        net.act = lambda x: x @ weight + outside
        reading = read(net)
        assert [(held.slot, held.leaf) for held in reading.held] == [(0, 0)]
        assert reading.held[0].cell.cell_contents is weight

    def test_nothing_of_a_module_is_changed(self):
        net = Net()
        before = {key: (id(value), repr(value)) for key, value in net.__dict__.items()}
        read(net)
        assert before == {key: (id(value), repr(value)) for key, value in net.__dict__.items()}


def changed(change):
    net = Net()
    change(net)
    return net


class TestDifference:
    def test_none_between_twins(self):
        assert told(Net(), Net()) is None
        for factory in (
            lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
            lambda: nn.LSTM(3, 4, 2, bidirectional=True),
            lambda: parametrizations.weight_norm(nn.Linear(2, 2)),
            lambda: parametrizations.spectral_norm(nn.Linear(2, 2)),
            lambda: nn.utils.prune.l1_unstructured(nn.Linear(2, 2), "weight", 0.5),
        ):
            assert told(factory(), factory()) is None

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda n: n.eval(), "the module itself: training is True against False"),
            (lambda n: n.two.eval(), "two: training is True against False"),
            (lambda n: n.double(), "one.weight: dtype is torch.float32 against torch.float64"),
            (lambda n: n.to("meta"), "one.weight: device is device(type='cpu') against"),
            (lambda n: setattr(n, "act", F.gelu), "act: value is "),
            (lambda n: setattr(n, "act", nn.ReLU()), "act"),
            (
                lambda n: setattr(n, "one", nn.Linear(2, 3)),
                "again: module is ('same as', 1) against nothing",
            ),
            (lambda n: setattr(n.two, "bias", nn.Parameter(torch.ones(2))), "two.bias"),
            (lambda n: setattr(n, "new", 1), "new: nesting is nothing against Shape"),
            (lambda n: n.table.update(n=4), "table['n']: value is 3 against 4"),
            (lambda n: n.table.update(n=3.0), "table['n']: value is 3 against 3.0"),
            (lambda n: n.table.update(n=True), "table['n']: value is 3 against True"),
            (lambda n: n.table["a"].append(1), "table: nesting"),
            (lambda n: n.table["a"].__setitem__(1, torch.zeros(3, 2)), "table['a'][1]"),
            (lambda n: n.layers.reverse(), "layers"),
            (lambda n: setattr(n, "none", torch.ones(1)), "none"),
            (lambda n: n.two.register_buffer("mask", torch.ones(2)), "persistent is False against"),
            (lambda n: n.one.register_forward_hook(print), "one: _forward_hooks"),
            (lambda n: n.two.register_forward_pre_hook(print), "two: _forward_pre_hooks"),
        ],
    )
    def test_the_first_is_named_by_path_and_property(self, change, said):
        text = told(Net(), changed(change))
        assert text is not None
        assert said in text
        assert len(text) < 300
        assert told(changed(change), Net()) is not None
        assert told(changed(change), changed(change)) is None or "LayerNorm" in said

    def test_what_does_not_count(self):
        one, other = Net(), Net()
        other.one.weight.requires_grad_(False)
        other.one.weight.grad = torch.ones(3, 2)
        with torch.no_grad():
            other.two.weight.fill_(7)
        assert told(one, other) is None

    def test_a_hook_with_keywords_differs_from_one_without(self):
        one, other = nn.ReLU(), nn.ReLU()
        one.register_forward_hook(print, with_kwargs=True)
        other.register_forward_hook(print)
        assert "_with_kwargs" in told(one, other)

    def test_classes(self):
        class Linear(nn.Linear):
            pass

        assert told(nn.Linear(1, 1), Linear(1, 1)) == (
            "the module itself: class is Linear against Linear"
        )

    def test_functions_tell_themselves_by_file_and_line(self):
        one, other = nn.ReLU(), nn.ReLU()
        one.act, other.act = lambda x: x, lambda x: x + 1
        assert __file__ in told(one, other) or "<lambda>" in told(one, other)


class TestTorchsOwnNames:
    def test_hooks_of_a_module(self):
        """A kind of hook that torch adds must be looked at: does a call fire it?"""
        assert list(HOOKS) == [
            *("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks"),
            *("_load_state_dict_post_hooks", "_load_state_dict_pre_hooks"),
            *("_state_dict_hooks", "_state_dict_pre_hooks"),
        ]

    def test_what_a_module_keeps_of_itself(self):
        assert set(nn.Module().__dict__) - set(HOOKS) == {
            *("training", "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"),
            *("_is_full_backward_hook", "_forward_hooks_with_kwargs"),
            *("_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"),
        }

    def test_hooks_stand_where_they_are_read(self):
        for register, kind in (
            (nn.Module.register_forward_hook, "_forward_hooks"),
            (nn.Module.register_forward_pre_hook, "_forward_pre_hooks"),
            (nn.Module.register_full_backward_hook, "_backward_hooks"),
            (nn.Module.register_full_backward_pre_hook, "_backward_pre_hooks"),
            (nn.Module.register_state_dict_post_hook, "_state_dict_hooks"),
        ):
            module, hook = nn.ReLU(), functools.partial(print, "a")
            register(module, hook)
            assert list(getattr(module, kind).values()) == [hook]
