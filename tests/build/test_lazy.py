"""Also the watch on torch's private names: these tests fail when torch changes them."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from chimera.build.inputs import Inputs
from chimera.build.lazy import initialize, is_lazy, reset_method, structure, waiting
from chimera.paths.structure import difference

CLASSES = [
    kind
    for name, kind in vars(nn).items()
    if inspect.isclass(kind) and issubclass(kind, LazyModuleMixin)
]
DIMS = {"1d": 1, "2d": 2, "3d": 3}


def make(kind):
    if "Norm" in kind.__name__:
        return kind(affine=True, track_running_stats=True)
    return kind(4, 2) if "Conv" in kind.__name__ else kind(4)


def input_of(kind, device=None):
    shape = (3, 5, *[6] * DIMS.get(kind.__name__[-2:], 0))
    return torch.empty(shape, device=device).zero_()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_lazy_class_of_torch_is_initialized_as_its_first_call_would(kind):
    mine, theirs = make(kind), make(kind)
    names = waiting(mine)
    assert names
    assert is_lazy(mine)
    initialize(mine, Inputs((input_of(kind, "meta"),)))
    theirs(input_of(kind))
    assert not waiting(mine)
    assert not is_lazy(mine)
    assert type(mine) is type(theirs) is kind.cls_to_become
    assert mine.__dict__.keys() == theirs.__dict__.keys()
    assert len(mine._forward_pre_hooks) == len(theirs._forward_pre_hooks) == 0
    assert len(mine._load_state_dict_pre_hooks) == len(theirs._load_state_dict_pre_hooks)
    for name in names:
        assert getattr(mine, name).shape == getattr(theirs, name).shape
        assert getattr(mine, name).device.type == "cpu"


def test_there_are_lazy_classes():
    assert len(CLASSES) >= 13


def test_a_module_that_is_built_is_not_lazy():
    lazy = nn.LazyLinear(3)
    lazy(torch.rand(2, 4))
    assert not is_lazy(lazy)
    assert not is_lazy(nn.Linear(3, 3))


def test_lazy_networks_of_one_structure_are_alike():
    def read(size):
        return structure(nn.Sequential(nn.LazyLinear(size), nn.LazyBatchNorm1d()))

    assert difference(read(3), read(3)) is None
    assert difference(read(3), read(4)) is not None


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(2, 2),
        nn.BatchNorm1d(2),
        nn.MultiheadAttention(4, 2),
        nn.Transformer(4, 2, 1, 1, batch_first=True),
    ],
)
def test_torchs_modules_can_draw_their_parameters_again(module):
    again = reset_method(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9.0)
    again()
    assert any((parameter != 9).any() for parameter in module.parameters())


def test_a_module_without_a_method_has_none():
    assert reset_method(nn.ReLU()) is None
