"""Any module comes back from its file, bit for bit, or nothing changes."""

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import chimera as ch
from chimera.stack.files import load, save


class Extra(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.state = state

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        if state == "planted":
            raise KeyError("planted")
        self.state = state


class Tied(nn.Module):
    """A shared layer, a tied weight, a persistent and a passing buffer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
        self.again = self.a
        self.register_buffer("kept", torch.randn(3))
        self.register_buffer("passing", torch.randn(3), persistent=False)


def lazy():
    return nn.Sequential(
        nn.LazyConv2d(3, 2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    )


def bits(module: nn.Module) -> dict[str, bytes]:
    return {
        name: value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


layers = st.sampled_from(
    [
        lambda: nn.Linear(3, 2),
        lambda: nn.Linear(2, 2, dtype=torch.float64),
        lambda: nn.BatchNorm1d(4),
        lambda: nn.Embedding(3, 2, dtype=torch.bfloat16),
        lambda: nn.GRU(2, 3),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
        lambda: nn.Dropout(),
        lambda: nn.PReLU(dtype=torch.complex128, init=1.0),
    ]
)


@given(
    makes=st.lists(layers, max_size=5),
    share=st.integers(0, 4),
    seed=st.integers(0, 100),
)
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, makes, share, seed):
    def make() -> nn.Module:
        parts = [make() for make in makes]
        return nn.Sequential(*parts, *parts[:share])

    torch.manual_seed(seed)
    net = make()
    save(net, tmp_path / "net")
    torch.manual_seed(seed + 1)
    other = make()
    assert load(tmp_path / "net", into=other) is other
    assert bits(other) == bits(net)


def test_ties_are_stored_once_and_stay(tmp_path: Path):
    net = Tied()
    save(net, tmp_path / "net")
    size = (tmp_path / "net").stat().st_size
    save(nn.ModuleDict({"a": nn.Linear(4, 4)}), tmp_path / "one")
    assert size - (tmp_path / "one").stat().st_size < 64 + 700  # the buffer, and words about it
    other = load(tmp_path / "net", into=Tied)
    assert bits(other) == bits(net)
    assert other.a.weight is other.b.weight is other.again.weight


def test_passing_buffers_stay_where_they_are(tmp_path: Path):
    net, other = Tied(), Tied()
    before = other.passing.clone()
    save(net, tmp_path / "net")
    load(tmp_path / "net", into=other)
    assert torch.equal(other.passing, before)


def test_a_tie_that_the_file_has_not_is_refused(tmp_path: Path):
    apart = Tied()
    apart.b.weight = nn.Parameter(torch.zeros(4, 4))
    save(apart, tmp_path / "net")
    other = Tied()
    before = bits(other)
    with pytest.raises(ch.CheckpointError, match=r"'a.weight' and 'b.weight' are one tensor in"):
        load(tmp_path / "net", into=other)
    assert bits(other) == before


def test_a_tie_that_the_module_has_not_is_said(tmp_path: Path):
    save(Tied(), tmp_path / "net")
    apart = Tied()
    apart.b.weight = nn.Parameter(torch.zeros(4, 4))
    with pytest.warns(ch.ChimeraWarning, match=r"keeps apart: a.weight = b.weight"):
        load(tmp_path / "net", into=apart)
    assert torch.equal(apart.a.weight, apart.b.weight)


def test_lazy_networks_take_the_shapes_of_the_file(tmp_path: Path):
    net, x = lazy(), torch.randn(4, 2, 5, 5)
    net(x)
    save(net, tmp_path / "net")
    other = load(tmp_path / "net", into=lazy)
    assert bits(other) == bits(net)
    assert torch.equal(other.eval()(x), net.eval()(x))


def test_a_lazy_network_of_another_dtype_stays_lazy(tmp_path: Path):
    net = lazy()
    net(torch.randn(4, 2, 5, 5))
    save(net, tmp_path / "net")
    other = lazy().double()
    with pytest.raises(ch.CheckpointError, match="float64, uninitialized in `into`"):
        load(tmp_path / "net", into=other)
    other(torch.randn(4, 7, 5, 5, dtype=torch.float64))


def test_what_is_not_built_is_not_saved(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'0.weight' is uninitialized.*ch\.build"):
        save(lazy(), tmp_path / "net")
    with pytest.raises(ValueError, match="'weight' is on the meta device"):
        save(nn.Linear(2, 2, device="meta"), tmp_path / "net")
    with pytest.raises(TypeError, match="module: expected a module, got dict"):
        save({}, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "state", [{"a": [1, 2.5, None, True], "b": {"c": "☃"}}, [], "", 0, torch.arange(3)]
)
def test_extra_state_comes_back(tmp_path: Path, state):
    save(Extra(state), tmp_path / "net")
    back = load(
        tmp_path / "net", into=Extra(torch.zeros(3).long() if torch.is_tensor(state) else 1)
    )
    assert torch.equal(back.state, state) if torch.is_tensor(state) else back.state == state


@pytest.mark.parametrize(
    "state", [(1, 2), {1: "a"}, object(), {"a": {1}}, float("nan"), {"t": (1,)}]
)
def test_extra_state_that_json_cannot_give_back_is_refused(tmp_path: Path, state):
    with pytest.raises(ValueError, match="the extra state '_extra_state'"):
        save(Extra(state), tmp_path / "net")


def test_names_that_do_not_fit_are_an_error_or_listed(tmp_path: Path):
    save(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}), tmp_path / "net")
    other = nn.ModuleDict({"a": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    before = bits(other)
    with pytest.raises(
        ch.CheckpointError, match=r"lacks c.bias, c.weight and holds b.bias, b.weight"
    ):
        load(tmp_path / "net", into=other)
    assert bits(other) == before
    with pytest.warns(
        ch.ChimeraWarning, match=r"lacks c.bias, c.weight and holds b.bias, b.weight"
    ):
        load(tmp_path / "net", into=other, strict=False)
    assert bits(other)["a.weight"] != before["a.weight"]
    assert bits(other)["c.weight"] == before["c.weight"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (nn.Linear(2, 4), r"'bias' is float32 \[3\] in the file and float32 \[4\] in `into`"),
        (nn.Linear(2, 3).double(), r"'bias' is float32 \[3\] in the file and float64 \[3\]"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_shapes_and_dtypes_must_agree(tmp_path: Path, other, said, strict):
    save(nn.Linear(2, 3), tmp_path / "net")
    before = bits(other)
    with pytest.raises(ch.CheckpointError, match=said):
        load(tmp_path / "net", into=other, strict=strict)
    assert bits(other) == before


def test_a_load_that_fails_late_leaves_the_module_as_it_was(tmp_path: Path):
    net = nn.ModuleList([nn.Linear(2, 2), nn.LazyLinear(2), Extra("planted")])
    net[1](torch.ones(1, 3))
    save(net, tmp_path / "net")
    other = nn.ModuleList([nn.Linear(2, 2), nn.LazyLinear(2), Extra("mine")])
    first, hooks = copy.deepcopy(other[0]), len(other[1]._forward_pre_hooks)
    with pytest.raises(KeyError, match="planted"):
        load(tmp_path / "net", into=other)
    assert bits(other[0]) == bits(first)
    assert other[2].state == "mine"
    assert len(other[1]._forward_pre_hooks) == hooks
    other[1](torch.ones(1, 7))  # still lazy: it takes another width
    assert other[1].weight.shape == (2, 7)


def test_plain_tensors_are_not_saved_silently(tmp_path: Path):
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].constant = torch.ones(2)
    with pytest.warns(
        ch.ChimeraWarning, match=r"0.constant: kept as plain attributes, so not saved"
    ):
        save(net, tmp_path / "net")


def test_what_is_no_module_is_refused(tmp_path: Path):
    save(nn.Linear(2, 2), tmp_path / "net")
    with pytest.raises(TypeError, match="into: expected a module or a factory, got int"):
        load(tmp_path / "net", into=3)
    with pytest.raises(TypeError, match="into: the factory returned dict, expected a module"):
        load(tmp_path / "net", into=dict)


def test_a_damaged_file_changes_nothing(tmp_path: Path):
    path = tmp_path / "net"
    save(nn.Linear(20, 20), path)
    content = bytearray(path.read_bytes())
    content[-500] ^= 1
    path.write_bytes(content)
    other = nn.Linear(20, 20)
    before = bits(other)
    with pytest.raises(ch.CheckpointError, match="is damaged: the data of 'weight' has changed"):
        load(path, into=other)
    assert bits(other) == before


def test_a_file_of_a_newer_format_is_refused(tmp_path: Path):
    from chimera.store import write_tensors

    write_tensors(tmp_path / "net", {}, json.loads('{"format": 2}'))
    with pytest.raises(ch.CheckpointError, match="is of format 2, this version reads 1"):
        load(tmp_path / "net", into=nn.ReLU())
