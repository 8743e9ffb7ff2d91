"""What a copied module's functions and weak references reach is the copy."""

import functools
import weakref

import torch
from torch import nn

from chimera.paths.bind import bind, reached
from chimera.paths.slots import with_tensors
from chimera.paths.structure import read


def copied(module):
    tensors = [slot.tensor.detach().clone() for slot in read(module).slots]
    tensors = [
        nn.Parameter(t) if isinstance(slot.tensor, nn.Parameter) else t
        for t, slot in zip(tensors, read(module).slots, strict=True)
    ]
    return with_tensors(module, tensors)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))
        self.log = []
        scale, log, outside = self.scale, self.log, []
        self.outside = outside
        self.own = lambda x: self.layer(x)
        self.tensor = lambda x: x * scale
        self.deep = lambda x: (lambda y: self.own(y))(x)
        self.partial = functools.partial(self._shifted, by=lambda: self.scale)
        self.default = lambda x, layer=self.layer, *, other=self.scale: layer(x) * other
        self.nest = {"functions": [self.own, (self.tensor,)]}
        self.parent = weakref.ref(self)
        self.stranger = weakref.ref(outside_module)
        self.plain = torch.relu
        self.free = free

        def recursive(x, n=2):
            return self.layer(x) if n == 0 else recursive(x, n - 1)

        recursive.note = "kept"
        self.recursive = recursive
        self.layer.register_forward_hook(lambda m, i, o: self.log.append(o))
        self.layer.register_forward_pre_hook(lambda m, i: log.append(m))
        self.register_load_state_dict_pre_hook(lambda *args: self.log.append("loading"))

    def _shifted(self, x, by):
        return x + by()


outside_module = nn.ReLU()


def free(x):
    return outside_module(x)


def test_every_function_reaches_the_copy():
    net = Net()
    copy = copied(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(float("nan"))
    x = torch.ones(1, 2)
    functions = [copy.own, copy.tensor, copy.deep, copy.partial, copy.default, copy.recursive]
    functions += [copy.nest["functions"][0], copy.nest["functions"][1][0]]
    for function in functions:
        assert function(x).isfinite().all()
    assert copy.parent() is copy
    assert copy.nest["functions"][0] is copy.own
    assert copy.recursive.note == "kept"


def test_the_original_keeps_its_own():
    net = Net()
    functions = [net.own, net.tensor, net.partial, net.recursive, net.layer._forward_hooks]
    contents = [id(cell.cell_contents) for cell in net.own.__closure__]
    copied(net)
    assert functions[:4] == [net.own, net.tensor, net.partial, net.recursive]
    assert [id(cell.cell_contents) for cell in net.own.__closure__] == contents
    assert net.parent() is net


def test_hooks_write_to_the_copy():
    net = Net()
    copy = copied(net)
    copy.layer(torch.ones(1, 2))
    copy.load_state_dict(copy.state_dict())
    assert [type(entry) for entry in copy.log] == [torch.Tensor, str]
    # A list that a closure holds beside the module is the original's: it is no part of a module.
    assert len(net.log) == 1
    assert net.log[0] is copy.layer


def test_what_reaches_nothing_of_the_module_stays_itself():
    net = Net()
    copy = copied(net)
    assert copy.plain is torch.relu
    assert copy.free is free
    assert copy.stranger() is outside_module


def test_bind_alone():
    old, new = nn.ReLU(), nn.ReLU()
    new.get = lambda: old
    bind([new], {id(old): new})
    assert new.get() is new


def test_what_a_function_reaches():
    layer = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    table = {"a": [layer]}
    for function in (
        lambda x: layer(x),
        lambda x: table["a"][0](x),
        lambda x, y=layer: y(x),
        functools.partial(lambda x, y: x, layer),
        functools.partial(print, key=[layer]),
        layer.forward,
        weakref.ref(layer),
        lambda: lambda: layer,
    ):
        assert reached(function) == list(layer.modules())
    assert reached(free) == []
    assert reached(torch.relu) == []
    assert reached(layer) == list(layer.modules())
