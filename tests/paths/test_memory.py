"""Tensors that share memory: found to the byte."""

import torch
from torch import nn

from chimera.paths.memory import overlapping
from chimera.paths.structure import read


def slots(**tensors):
    module = nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    return read(module).slots


def test_views_are_found():
    base = torch.zeros(4, 4)
    for view in (base[1], base[:, 2], base.view(16)[3:9], base.t(), base[::2]):
        found = overlapping(slots(base=base, view=view))
        assert [slot.path for slot in found] == ["base", "view"]


def test_parts_side_by_side_are_not():
    base = torch.zeros(6)
    assert overlapping(slots(a=base[:2], b=base[2:4], c=base[4:])) is None
    assert overlapping(slots(a=torch.zeros(3), b=torch.zeros(3))) is None


def test_parts_that_interleave_are_not():
    base = torch.zeros(4, 6)
    assert overlapping(slots(a=base[:, :3], b=base[:, 3:])) is None
    assert overlapping(slots(a=base[::2], b=base[1::2])) is None
    pairs = torch.zeros(3, dtype=torch.complex64)
    assert overlapping(slots(a=pairs.real, b=pairs.imag)) is None
    found = overlapping(slots(a=pairs.real, b=pairs.imag, c=pairs))
    assert [slot.path for slot in found] == ["a", "c"]


def test_tensors_that_overlap_themselves():
    base = torch.zeros(6)
    wide = base[:1].expand(5)
    assert overlapping(slots(a=wide, b=base[1:])) is None
    assert overlapping(slots(a=wide, b=base)) is not None
    windows = base.unfold(0, 3, 1)
    assert overlapping(slots(a=windows, b=base[5:])) is not None


def test_what_has_no_memory():
    lazy = nn.LazyLinear(3)
    assert overlapping(read(lazy).slots) is None
    meta = torch.empty(4, device="meta")
    assert overlapping(slots(a=meta, b=meta[:2], c=torch.zeros(0), d=torch.zeros(0))) is None
    sparse = torch.eye(3).to_sparse()
    assert overlapping(slots(a=sparse)) is None


def test_one_tensor_at_two_places_is_one():
    base = torch.zeros(4)
    assert overlapping(slots(a=base, b=base)) is None
