"""Hooks of copies: they gather beside the caller's, and act on the copy."""

import functools
import threading
from collections import defaultdict

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.build.twin import replica, twin

GATHERED: list = []
COUNT = 0


def to_a_global(module, args, output):
    global COUNT
    COUNT += 1
    GATHERED.append(output)


class Gatherer:
    def __init__(self):
        self.found, self.by_kind = [], defaultdict(list)

    def hook(self, module, args, output):
        self.found.append(output)
        self.by_kind[type(module).__name__].append(output)


def closure():
    found = []
    return lambda module, args, output: found.append(output), lambda: found


def default():
    found = []

    def hook(module, args, output, found=found):
        found.append(output)

    return hook, lambda: found


def keyword_default():
    found = {}

    def hook(module, args, output, *, found=found):
        found[len(found)] = output

    return hook, lambda: found


def method():
    gatherer = Gatherer()
    return gatherer.hook, lambda: gatherer.found


def partial():
    found = []

    def hook(found, module, args, output):
        found.append(output)

    return functools.partial(hook, found), lambda: found


def inner():
    gatherer = Gatherer()

    def hook(module, args, output):
        def put():
            gatherer.found.append(output)

        put()

    return hook, lambda: gatherer.found


def counter():
    count = 0

    def hook(module, args, output):
        nonlocal count
        count += 1

    return hook, lambda: [None] * count


def with_a_lock():
    found, lock = [], threading.Lock()

    def hook(module, args, output):
        with lock:
            found.append(output)

    return hook, lambda: found


def of_the_module():
    return to_a_global, lambda: GATHERED


WAYS = [
    *(closure, default, keyword_default, method, partial, inner, counter, with_a_lock),
    of_the_module,
]
LOOKS = {
    "check": lambda net: ch.check(net, ch.spec("batch", 4), loss=nn.MSELoss()),
    "summary": lambda net: ch.summary(net, ch.spec("batch", 4)),
    "measured": lambda net: ch.summary(net, ch.spec(2, 4), measure=True),
    "shapes": lambda net: ch.shapes(net, ch.spec("batch", 4)),
    "example": lambda net: ch.shapes(net, example=torch.ones(2, 4)),
    "contract": lambda net: ch.contract(net, ch.spec("batch", 4)),
    "build": lambda net: ch.build(net, ch.spec("batch", 4)),
}


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("look", LOOKS)
def test_what_a_hook_gathers_stays_as_it_is(net, look, way):
    hook, gathered = way()
    before = COUNT
    net[0].register_forward_hook(hook)
    LOOKS[look](net)
    assert len(gathered()) == 0
    assert before == COUNT
    assert len(net[0]._forward_hooks) == 1
    net(torch.ones(1, 4))
    assert len(gathered()) == 1
    gathered().clear()


@pytest.mark.parametrize("way", WAYS[:-1], ids=lambda way: way.__name__)
def test_what_a_hook_gathered_before_is_no_hindrance(net, way):
    hook, gathered = way()
    handle = net[0].register_forward_hook(hook)
    net(torch.ones(1, 4))
    for look in LOOKS.values():
        look(net)
    assert len(gathered()) == 1
    assert len(net[0]._forward_hooks) == 1
    handle.remove()
    assert not net[0]._forward_hooks


class Features(nn.Module):
    """A head over what a hook caught of the body."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.caught = nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 2), {}
        self.body[0].register_forward_hook(lambda m, a, o: self.caught.__setitem__("x", o))

    def forward(self, x):
        self.body(x)
        return self.head(self.caught["x"])


@pytest.mark.parametrize("look", LOOKS)
def test_a_hook_that_closes_over_its_module_writes_to_the_copy(look):
    net = Features()
    LOOKS[look](net)
    assert net.caught == {}
    assert net(torch.ones(1, 4)).shape == (1, 2)


@pytest.mark.parametrize("copied", [twin, replica])
def test_a_copy_s_hook_acts_on_the_copy(copied):
    net = Features()
    copy = copied(net)
    copy(torch.ones(1, 4))
    assert list(copy.caught) == ["x"]
    assert net.caught == {}


def test_a_hook_that_changes_the_output_counts(net):
    net.register_forward_hook(lambda module, args, output: output[:, :3])
    assert ch.shapes(net, ch.spec("batch", 4)).output == ch.spec("batch", 3)


def test_two_hooks_that_share_a_variable_share_it_in_the_copy(net):
    found = []

    def first(module, args, output):
        found.append("first")

    def second(module, args, output):
        return output * len(found)

    net[0].register_forward_hook(first)
    net[1].register_forward_hook(second)
    copy = replica(net)
    copy(torch.ones(1, 4))
    twice = copy(torch.ones(1, 4))
    assert torch.equal(twice, 2 * net(torch.ones(1, 4)))
    assert found == ["first"]


def test_a_hook_that_removes_itself_stays_on_the_network(net):
    fired = []

    def once(module, args, output):
        fired.append(output)
        handle.remove()

    handle = net[0].register_forward_hook(once)
    ch.check(net, ch.spec("batch", 4))
    assert len(net[0]._forward_hooks) == 1
    net(torch.ones(1, 4))
    assert len(fired) == 1
    assert not net[0]._forward_hooks


def test_a_function_among_the_attributes_reads_the_copy():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.ones(4))
            self.act = lambda x: x * self.scale

        def forward(self, x):
            return self.act(self.layer(x))

    net = Scaled()
    copy = replica(net)
    with torch.no_grad():
        copy.scale.zero_()
    assert not copy(torch.ones(1, 4)).any()
    assert net(torch.ones(1, 4)).any()


def test_hooks_of_torch_s_own_still_compute():
    net = nn.utils.spectral_norm(nn.Linear(4, 4))
    copy = replica(net).eval()
    assert torch.equal(copy(torch.ones(1, 4)), net.eval()(torch.ones(1, 4)))
    assert copy.weight is not net.weight
