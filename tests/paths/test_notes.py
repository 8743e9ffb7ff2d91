import traceback

import pytest
import torch
from torch import nn

from chimera.paths.notes import one_line, point, shown


class Loop(nn.Module):
    """Runs its layers in a ModuleList, and does something of its own."""

    def __init__(self, *layers, own=None):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.own = own

    def forward(self, x, scale=None):
        for layer in self.layers:
            x = layer(x)
        return self.own(x) if self.own is not None else x


def noted(net, *args, origin=None, **kwargs):
    """The error of ``net(*args, **kwargs)``, pointed, and its note."""
    with pytest.raises(Exception) as caught:
        net(*args, **kwargs)
    before = traceback.format_tb(caught.value.__traceback__)
    point(caught.value, net, origin)
    assert traceback.format_tb(caught.value.__traceback__) == before
    (note,) = caught.value.__notes__
    return caught.value, note


def test_the_joint_is_named():
    net = nn.Sequential(
        nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)), nn.Sequential(nn.Linear(10, 20))
    )
    error, note = noted(net, torch.rand(32, 10))
    assert type(error) is RuntimeError
    assert note.splitlines()[:3] == [
        "in the module at 1.0: Linear(in_features=10, out_features=20, bias=True)",
        "  came: float32 [32, 5]",
        "  wanted: float32 [..., 10]",
    ]
    assert "mend: give this layer in_features=5" in note


def test_the_maker_is_named_where_it_is_known():
    _, note = noted(nn.Linear(3, 2), torch.rand(2, 4), origin=lambda tensor: "0, ReLU()")
    assert "came: float32 [2, 4] from 0, ReLU()" in note


def test_modules_in_lists_and_user_forwards_are_found():
    net = Loop(nn.Linear(4, 4), Loop(nn.Linear(5, 4)))
    _, note = noted(net, torch.rand(2, 4))
    assert note.startswith("in the module at layers.1.layers.0: Linear(in_features=5")


def test_an_operation_of_a_users_forward_is_found_by_its_line():
    def own(x):
        return x @ torch.ones(7)

    net = Loop(Loop(nn.Linear(4, 4), own=own))
    _, note = noted(net, torch.rand(2, 4), scale=3)
    assert note.startswith("in the module at layers.0: Loop(...)")
    assert "  came: float32 [2, 4]" in note
    assert f"  line: {__file__}:{own.__code__.co_firstlineno + 1}" in note
    assert "wanted" not in note


def test_keyword_inputs_are_shown():
    net = Loop(own=lambda x: x @ torch.ones(7))
    _, note = noted(net, torch.rand(2, 4), scale=[torch.ones(2, dtype=torch.int64), None])
    assert "came: float32 [2, 4], scale=[int64 [2], None]" in note
    assert note.startswith("in the module at (root): Loop(...)")


def test_any_exception_keeps_its_type():
    class Odd(KeyError):
        pass

    def own(x):
        raise Odd("key")

    error, note = noted(Loop(own=own), torch.rand(2))
    assert type(error) is Odd
    assert "in the module at (root)" in note


def test_an_error_is_pointed_once():
    inner = nn.Linear(3, 3)
    net = nn.Sequential(inner)
    error, _ = noted(inner, torch.rand(2, 4))
    point(error, net)
    assert len(error.__notes__) == 1


def test_an_error_from_elsewhere_is_left_alone():
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(3, 3)(torch.rand(2, 4))
    point(caught.value, nn.Linear(3, 3))
    assert not hasattr(caught.value, "__notes__")


def test_a_module_under_vmap_is_found():
    net = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError) as caught:
        torch.func.vmap(net)(torch.rand(5, 2, 4))
    point(caught.value, net)
    assert "in the module at 0: Linear" in caught.value.__notes__[0]
    assert "came: float32 [2, 4]" in caught.value.__notes__[0]


def test_one_line():
    assert one_line(nn.Dropout(0.25)) == "Dropout(p=0.25, inplace=False)"
    assert one_line(nn.Sequential(nn.ReLU())) == "Sequential(...)"
    assert one_line(nn.ReLU()) == "ReLU()"
    assert shown({"a": (torch.ones(2, 3), nn.UninitializedParameter())}) == (
        "{'a': (float32 [2, 3], uninitialized)}"
    )
    assert len(shown("x" * 1000)) == 100
