"""Constant: a tensor that moves, casts and is saved, and takes no gradient."""

import pytest
import torch
from torch import nn

import chimera as ch


def test_takes_no_gradient_and_is_saved():
    source = torch.rand(3, 3, requires_grad=True)
    constant = ch.Constant(source)
    assert not list(constant.parameters())
    assert list(constant.state_dict()) == ["value"]
    x = torch.rand(2, 3, requires_grad=True)
    (x @ constant()).sum().backward()
    assert source.grad is None
    assert x.grad is not None
    with torch.no_grad():
        source.zero_()
    assert constant().abs().sum() > 0


def test_moves_and_casts():
    constant = ch.Constant(torch.rand(3))
    assert constant.double()().dtype == torch.float64
    assert constant.to("meta")().is_meta
    assert ch.Constant(torch.arange(3)).double()().dtype == torch.int64


def test_loads():
    a, b = ch.Constant(torch.rand(3)), ch.Constant(torch.rand(3))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(), b())


def test_is_a_module_that_ignores_its_input():
    constant = ch.Constant(torch.rand(2, 3))
    out = ch.Parallel(nn.Identity(), constant)(torch.zeros(2, 3))
    assert torch.equal(out[:, 3:], constant())
    assert torch.equal(ch.Sequential(constant, nn.Identity())(1, 2, key=3), constant())
    assert "(2, 3), float32" in repr(constant)


@pytest.mark.parametrize("value", [3.0, [1.0], nn.ReLU(), None])
def test_takes_a_tensor(value):
    with pytest.raises(TypeError, match=r"takes a tensor; got .*torch\.as_tensor"):
        ch.Constant(value)
