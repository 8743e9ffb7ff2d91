"""Skeletons, copies with other tensors, and the exchange of tensors for the time of a call."""

import copy
import pickle

import pytest
import torch
from torch import nn

from chimera.paths.before import Remade
from chimera.paths.slots import GONE, Exchange, skeleton, with_tensors
from chimera.paths.structure import difference, read


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.tied = self.layer
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("none", None)
        self.offset = torch.ones(2)
        self.table = {"a": [torch.ones(2), self.layer.weight], "n": 1}
        self.calls = 0
        weight = self.layer.weight
        self.product = lambda x: x @ weight


def others(module, start=10.0):
    return [torch.full_like(slot.tensor, start + i) for i, slot in enumerate(read(module).slots)]


def state(module):
    reading = read(module)
    facts = sorted((f.path, f.name, repr(f.value)) for f in reading.facts if f.path != "product")
    return facts, [(slot.path, id(slot.tensor)) for slot in reading.slots]


class TestSkeleton:
    def test_it_holds_no_number_and_the_same_structure(self):
        net = Net()
        net.layer.weight.requires_grad_(False)
        bones = skeleton(net)
        assert all(slot.tensor.device.type == "meta" for slot in read(bones).slots)
        paths = [slot.path for slot in read(net).slots]
        assert [slot.path for slot in read(bones).slots] == paths
        assert isinstance(bones.layer.weight, nn.Parameter)
        assert not bones.layer.weight.requires_grad
        assert bones.layer.bias.requires_grad
        assert bones.tied is bones.layer
        assert bones.table["a"][1] is bones.layer.weight
        assert bones.product.__closure__[0].cell_contents is bones.layer.weight
        assert net.offset.device.type == "cpu"

    def test_a_copy_with_tensors(self):
        net = Net()
        tensors = [slot.tensor.detach().clone() for slot in read(net).slots]
        tensors[1:3] = map(nn.Parameter, tensors[1:3])
        made = with_tensors(skeleton(net), tensors)
        assert difference(read(made), read(net)) is None
        assert made.layer.weight is tensors[1] is made.table["a"][1]

    def test_non_leaf_tensors_are_no_obstacle(self):
        net = Net()
        net.last = net.layer(torch.ones(1, 2))
        assert skeleton(net).last.device.type == "meta"

    def test_a_deepcopy_that_loses_modules_is_said(self):
        class Forgets(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(1, 1)

            def __deepcopy__(self, memo):
                return nn.ReLU()

        with pytest.raises(
            ValueError, match="copy.deepcopy of Forgets gives 1 modules, the original"
        ):
            skeleton(Forgets())


class TestExchange:
    def test_every_place_is_filled_and_put_back(self):
        net = Net()
        before, exchange, tensors = state(net), Exchange(read(net)), others(net)
        exchange.put(tensors)
        assert net.layer.weight is net.tied.weight is net.table["a"][1] is tensors[1]
        assert net.product.__closure__[0].cell_contents is tensors[1]
        assert net.mean is tensors[0]
        assert net.offset is tensors[3]
        written = exchange.written()
        assert not written.slots
        assert not written.buffers
        assert not written.attributes
        exchange.take_back()
        assert state(net) == before
        assert net.product.__closure__[0].cell_contents is net.layer.weight

    def test_what_stands_for_a_parameter_says_that_it_is_one(self):
        """By an attribute that torch's own ``isinstance`` asks."""
        net, tensors = Net(), others(Net())
        exchange = Exchange(read(net))
        assert not isinstance(tensors[1], nn.Parameter)
        exchange.put(tensors)
        assert isinstance(net.layer.weight, nn.Parameter)
        assert not isinstance(net.mean, nn.Parameter)
        exchange.take_back()

    def test_what_was_written(self):
        net = Net()
        before, exchange = state(net), Exchange(read(net))
        exchange.put(others(net))
        net.mean = mean = torch.ones(2)
        net.none = filled = torch.ones(3)
        net.register_buffer("new", torch.ones(4), persistent=False)
        net.offset = offset = torch.zeros(2)
        net.table["a"].append(5)
        net.calls += 1
        net.extra = ["x"]
        net.layer.eval()
        del net.product
        written = exchange.written()
        assert written.slots == {0: mean}
        assert written.buffers[0, "none"] == (filled, True)
        assert written.buffers[0, "new"][1] is False
        assert written.attributes == {
            (0, "offset"): offset,
            (0, "table"): net.table,
            (0, "calls"): 1,
            (0, "extra"): ["x"],
            (0, "product"): GONE,
            (1, "training"): False,
        }
        exchange.take_back()
        assert state(net) == before
        assert net.table == {"a": [net.table["a"][0], net.layer.weight], "n": 1}

    def test_a_buffer_that_is_dropped(self):
        net = Net()
        exchange = Exchange(read(net))
        exchange.put(others(net))
        net.mean = None
        assert exchange.written().buffers == {(0, "mean"): (None, True)}
        exchange.take_back()
        assert net.mean is not None

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda n: setattr(n, "late", nn.ReLU()), "forward registers the module 'late'"),
            (
                lambda n: setattr(n.layer, "p", nn.Parameter(torch.ones(1))),
                "layer: forward registers",
            ),
            (lambda n: delattr(n, "mean"), "forward removes the buffer 'mean'"),
            (lambda n: delattr(n.layer, "bias"), "layer: forward removes the parameter 'bias'"),
            (lambda n: setattr(n, "layer", nn.Linear(2, 2)), "puts another module in the place"),
            (lambda n: setattr(n.layer, "bias", None), "puts another parameter in the place"),
        ],
    )
    def test_what_no_exchange_can_follow(self, change, said):
        net = Net()
        before, exchange = state(net), Exchange(read(net))
        exchange.put(others(net))
        change(net)
        with pytest.raises(Remade, match=said):
            exchange.written()
        exchange.take_back()
        assert state(net) == before

    def test_forwards_stand_in_for_the_time_of_a_call(self):
        net = Net()
        exchange = Exchange(read(net), {1: lambda module, x: (module, x)})
        exchange.put(others(net))
        assert net.layer(3) == (net.layer, 3)
        assert not exchange.written().attributes
        exchange.take_back()
        assert "forward" not in net.layer.__dict__
        assert net.layer(torch.ones(1, 2)).shape == (1, 2)

    def test_objects_and_what_they_hold(self):
        class Settings:
            def __init__(self):
                self.scale, self.seen = torch.ones(2), [1]

        net = nn.Linear(2, 2)
        net.settings = settings = Settings()
        exchange = Exchange(read(net))
        exchange.put(others(net))
        assert net.settings.scale[0] == 12
        assert type(net.settings) is Settings
        net.settings.seen.append(2)
        assert (0, "settings") in exchange.written().attributes
        exchange.take_back()
        assert net.settings.seen == [1]
        assert net.settings.scale is settings.scale

    def test_one_list_under_two_names(self):
        net = nn.Linear(2, 2)
        net.one = net.other = [torch.ones(1)]
        exchange = Exchange(read(net))
        exchange.put(others(net))
        net.one.append(1)
        assert net.other is net.one
        exchange.take_back()


def test_gone_is_itself_everywhere():
    assert pickle.loads(pickle.dumps(GONE)) is GONE
    assert copy.deepcopy(GONE) is GONE
