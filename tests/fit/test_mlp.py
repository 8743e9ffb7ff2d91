"""The ready network."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from chimera.fit import MLP


def test_it_is_a_chain_of_linear_layers_and_relus() -> None:
    net = MLP(6, 3, hidden=5, depth=2)
    shapes = [tuple(p.shape) for p in net.parameters()]
    assert shapes == [(5, 6), (5,), (5, 5), (5,), (3, 5), (3,)]
    x = torch.randn(4, 2, 3)
    h = relu(net.hidden[1](relu(net.hidden[0](x.flatten(1)))))
    assert torch.equal(net(x), net.out(h))


def test_without_depth_it_is_linear() -> None:
    net = MLP(6, 3, depth=0)
    x = torch.randn(4, 6)
    assert torch.equal(net(x), nn.functional.linear(x, net.out.weight, net.out.bias))


def test_hidden_units_are_dropped_while_training() -> None:
    net = MLP(6, 3, dropout=0.5)
    x = torch.randn(4, 6)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden": 0}, ValueError, "hidden must be at least 1, got 0"),
        ({"hidden": 2.5}, TypeError, "hidden must be a whole number, got 2.5"),
        ({"depth": -1}, ValueError, "depth must be at least 0, got -1"),
        ({"dropout": 1.0}, ValueError, "dropout must be in [0, 1), got 1.0"),
        ({"dropout": "much"}, TypeError, "dropout must be a number, got 'much'"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        MLP(6, 3, **options)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_become_floats(dtype: torch.dtype) -> None:
    net = MLP(6, 3)
    x = torch.arange(24).reshape(4, 6).to(dtype)
    assert torch.equal(net(x), net(x.float()))
