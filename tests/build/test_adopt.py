import copy
import gc

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.build.adopt import report_of


class Constants(nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = torch.rand(3, 4)
        self.alias = self.kept
        self.row = self.kept[0]
        self.written = torch.zeros(4)
        self.replaced = torch.zeros(4)
        self.trained = torch.ones(4, requires_grad=True)
        self.linear = nn.Linear(4, 4)
        self.of_weight = self.linear.weight.data
        self.listed = [torch.ones(2)]
        self.count = torch.zeros((), dtype=torch.int64)

    def forward(self, x):
        self.written += x.sum(0)
        self.count += 1
        self.replaced = x.sum(0)
        return self.linear(x) @ self.kept.T


def built(module, *shape):
    with pytest.warns(ch.ChimeraWarning) as caught:
        ch.build(module, ch.spec(*shape))
    (warning,) = caught
    return module, str(warning.message)


def test_tensors_that_stay_in_their_places_become_buffers():
    module, message = built(Constants(), 2, 4)
    assert list(dict(module.named_buffers(remove_duplicate=False))) == [
        "kept",
        "alias",
        "row",
        "written",
        "count",
    ]
    assert "replaced" in module.__dict__
    assert "listed" in module.__dict__
    assert "kept: plain tensor [3, 4] adopted as a buffer" in message
    assert "replaced" not in message
    assert (module.written == 0).all()
    assert module.count == 0
    module.double()
    assert module(torch.rand(2, 4).double()).dtype == torch.float64
    assert module.count.dtype == torch.int64


def test_a_tie_is_kept_and_told():
    module, message = built(Constants(), 2, 4)
    assert module.alias is module.kept
    assert module.row.untyped_storage().data_ptr() == module.kept.untyped_storage().data_ptr()
    assert "alias: plain tensor [3, 4] adopted" in message
    assert "it is kept, tied" in message


def test_what_was_meant_as_a_parameter_is_left_alone_and_told():
    module, message = built(Constants(), 2, 4)
    assert "trained" in module.__dict__
    assert "of_weight" in module.__dict__
    assert "trained: left a plain tensor, since it requires a gradient" in message
    assert "of_weight: left a plain tensor, since it is memory of the parameter linear" in message


def test_a_tensor_that_one_branch_replaces_is_left_alone():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.ones(4), torch.ones(4)

        def forward(self, x):
            if x.sum() > 0:
                self.first = x.sum(0)
            else:
                self.second = x.sum(0)
            return x * self.first * self.second

    module = ch.build(Sometimes(), ch.spec(2, 4))
    assert not module._buffers


def test_an_attribute_of_the_class_is_left_alone():
    class Hiding(nn.Module):
        scale = None

        def __init__(self):
            super().__init__()
            self.scale = torch.ones(4)

        def forward(self, x):
            return x * self.scale

    module, message = built(Hiding(), 2, 4)
    assert "scale: left a plain tensor, since the class Hiding has an attribute" in message
    assert (module(torch.ones(2, 4)) == 1).all()


def test_the_report_follows_the_module():
    module, _ = built(nn.Sequential(Constants()), 2, 4)
    assert [line.partition(":")[0] for line in report_of(module)] == [
        "0.kept",
        "0.alias",
        "0.row",
        "0.written",
        "0.count",
    ]
    outer = nn.ModuleDict({"inner": module})
    assert report_of(outer)[0].startswith("inner.0.kept: plain tensor [3, 4] adopted")
    assert report_of(nn.Linear(2, 2)) == []


def test_the_report_keeps_no_module_alive():
    import weakref

    module, _ = built(Constants(), 2, 4)
    watch = weakref.ref(module)
    del module
    gc.collect()
    assert watch() is None


def test_the_second_build_has_nothing_to_adopt():
    module, _ = built(nn.Sequential(nn.Linear(4, 4), torch_constant()), 2, 4)
    before = report_of(module)
    ch.build(module, ch.spec(2, 4))
    assert report_of(module) == before
    assert len(before) == 1


def torch_constant():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.ones(4)

        def forward(self, x):
            return x + self.shift

    return Shift()


def test_an_adopted_network_is_saved_and_copied():
    module, _ = built(torch_constant(), 2, 4)
    assert list(module.state_dict()) == ["shift"]
    assert torch.equal(copy.deepcopy(module).shift, module.shift)


def test_hooks_that_set_tensors_are_left_alone():
    layer = torch.nn.utils.spectral_norm(nn.Linear(4, 4))
    ch.build(nn.Sequential(layer), ch.spec(2, 4))
    assert "weight" in layer.__dict__
    assert "weight" not in layer._buffers
