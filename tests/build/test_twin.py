import threading

import pytest
import torch
from torch import nn

from chimera.build.datafree import SMALL, is_uninitialized
from chimera.build.twin import replica, tensors_of, twin


class Held(nn.Module):
    """Tensors in every place that a module has for them."""

    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Linear(200, 200), nn.Linear(3, 3)
        self.tied = self.large
        self.head = nn.Linear(200, 200, bias=False)
        self.head.weight = self.large.weight
        self.lazy = nn.LazyLinear(3)
        self.norm = nn.LazyBatchNorm1d()
        self.plain = torch.rand(100, 100)
        self.listed = [self.plain, {"a": (torch.ones(3),)}]
        self.computed = self.large.weight * 2
        self.frozen = nn.Parameter(torch.ones(SMALL + 1), requires_grad=False)
        self.register_buffer("hidden", torch.ones(5), persistent=False)


def test_large_tensors_lose_their_data_and_small_ones_keep_theirs():
    net = Held()
    copy = twin(net)
    assert copy.large.weight.is_meta
    assert torch.equal(copy.small.weight, net.small.weight)
    assert copy.small.weight is not net.small.weight
    assert copy.plain.is_meta
    assert copy.computed.is_meta
    assert not copy.frozen.requires_grad
    assert copy.large.weight.requires_grad
    assert copy.listed[1]["a"][0].tolist() == [1, 1, 1]
    assert "hidden" in copy._non_persistent_buffers_set


@pytest.mark.parametrize("make", [twin, replica])
def test_ties_hold(make):
    copy = make(Held())
    assert copy.tied is copy.large
    assert copy.head.weight is copy.large.weight
    assert copy.listed[0] is copy.plain
    assert len(list(copy.parameters())) == len(list(Held().parameters()))


@pytest.mark.parametrize("make", [twin, replica])
def test_what_waits_for_its_shape_still_waits(make):
    net = Held()
    copy = make(net)
    assert is_uninitialized(copy.lazy.weight)
    assert is_uninitialized(copy.norm.running_mean)
    assert copy.lazy.weight is not net.lazy.weight
    if make is replica:
        copy.norm(copy.lazy(torch.rand(4, 9)))
        assert copy.lazy.weight.shape == (3, 9)
    assert is_uninitialized(net.lazy.weight)
    assert len(net.lazy._forward_pre_hooks) == 1


@pytest.mark.parametrize("make", [twin, replica])
def test_nothing_is_shared(make):
    net = Held()
    copy = make(net)
    theirs = {
        tensor.untyped_storage().data_ptr()
        for tensor in tensors_of(net)
        if not is_uninitialized(tensor)
    }
    for tensor in tensors_of(copy):
        if not is_uninitialized(tensor) and not tensor.is_meta:
            assert tensor.untyped_storage().data_ptr() not in theirs


def test_a_replica_is_equal():
    net = nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100))
    copy = replica(net)
    for mine, theirs in zip(tensors_of(copy), tensors_of(net), strict=True):
        assert torch.equal(mine, theirs)
        assert type(mine) is type(theirs)


def test_only_what_cannot_be_copied_is_shared():
    net = nn.Sequential(Held())
    net[0].lock, net[0].cache = threading.Lock(), {"seen": []}
    copy = twin(net)
    assert copy[0].lock is net[0].lock
    assert copy[0].cache == {"seen": []}
    assert copy[0].cache is not net[0].cache
    assert copy[0].large.weight.is_meta


def test_recurrent_layers_keep_their_flat_weights():
    copy = twin(nn.LSTM(200, 50, 2))
    assert copy._flat_weights[0] is copy.weight_ih_l0


def test_attributes_of_parameters_are_kept():
    net = nn.Linear(3, 3)
    net.weight.group = "slow"
    assert twin(net).weight.group == "slow"


class Own(nn.Module):
    """A class that copies itself in its own way."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.copies = 0

    def __deepcopy__(self, memo):
        made = Own()
        made.copies = self.copies + 1
        return made


class Entangled(nn.Module):
    """Attributes that refer to each other, to the module and to its children."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.own = nn.Linear(2, 2), nn.Linear(2, 2), Own()
        self.first.memory = self.second.memory = {}
        self.order = [self.second, self.first]
        self.again = self.order
        self.by_name = {"one": self.first, "none": None}
        self.act = self.halved
        self.first.register_forward_hook(self.seen)
        self.calls = set()

    def halved(self, x):
        return x / 2

    def seen(self, module, args, output):
        self.calls.add("seen")

    def forward(self, x):
        return self.act(self.second(self.first(x)))


def test_a_copy_holds_together_as_its_original_does():
    net = Entangled()
    copy = replica(net)
    assert copy.first.memory is copy.second.memory
    assert copy.first.memory is not net.first.memory
    assert copy.order == [copy.second, copy.first]
    assert copy.again is copy.order
    assert copy.by_name == {"one": copy.first, "none": None}
    assert copy.act.__self__ is copy
    assert copy.own.copies == 1
    copy(torch.rand(1, 2))
    assert copy.calls == {"seen"}
    assert net.calls == set()
    assert list(vars(copy)) == list(vars(net))
