"""Members whose code takes another way at a later call than at the first.

What a batched tensor answers wrongly without an error is watched for wherever the way may be new.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import chimera as ch
from chimera.paths.nest import flatten

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def _asks_gradient(net, x, h):
    return h * 2 if h.requires_grad else h


def _asks_leaf(net, x, h):
    return h * 2 if h.is_leaf else h * 3


def _asks_graph(net, x, h):
    return h * 2 if h.grad_fn is not None else h


def _hooks(net, x, h):
    h = h * 1
    if h.requires_grad:
        h.register_hook(lambda grad: grad * 2)
    return h


def _asks_text(net, x, h):
    return h * len(repr(h.detach()))


def _catches_hook(net, x, h):
    h = h * 1
    try:
        h.register_hook(lambda grad: grad * 2)
    except RuntimeError:
        return h * (5 if torch.is_grad_enabled() and h.requires_grad else 1)
    return h


def _catches_item(net, x, h):
    try:
        return h * float(h.detach()[0, 0])
    except RuntimeError:
        return h * 100


def _catches_draw(net, x, h):
    try:
        return h * torch.rand(4, dtype=h.dtype)
    except RuntimeError:
        return h * 100


def _gives_data(net, x, h):
    net.mean.data = net.mean * 0.5 + h.detach().mean(0)
    return h * net.mean


def _casts(net, x, h):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = F.linear(x.float(), net.layer.weight.float())
    return h + low.double()


def _recomputes(net, x, h):
    return checkpoint(lambda rows: torch.tanh(net.layer(rows)), x, use_reentrant=False)


def _draws(net, x, h):
    return F.dropout(h, 0.5) * torch.rand(4, dtype=h.dtype)


def _conditions(net, x, h):
    return h * 2 if h.sum() > 0 else h


def _differentiates(net, x, h):
    return torch.func.vmap(torch.func.grad(lambda row: net.layer(row).square().sum()))(x)


def _writes(net, x, h):
    with torch.no_grad():
        net.layer.weight.mul_(0.9)
    return net.layer(x)


def _changes_input(net, x, h):
    x.mul_(2)
    return net.layer(x)


def _another_structure(net, x, h):
    return {"h": h, "rows": h[:2]}


WAYS = [
    *(_asks_gradient, _asks_leaf, _asks_graph, _asks_text, _hooks, _catches_hook, _catches_item),
    *(_catches_draw, _gives_data, _casts, _recomputes, _draws, _conditions, _differentiates),
    *(_writes, _changes_input, _another_structure),
]


class Late(nn.Module):
    """Takes ``way`` from its third call on."""

    way = None

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.register_buffer("mean", torch.ones(4))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return type(self).way(self, x, self.layer(x)) if self.calls > 2 else self.layer(x)


class InAContainer(Late):
    def forward(self, x):
        if not hasattr(self, "log"):
            self.log = {"calls": []}
        self.log["calls"].append(self.layer(x).detach().mean())
        many = len(self.log["calls"]) > 2
        return type(self).way(self, x, self.layer(x)) if many else self.layer(x)


@pytest.mark.parametrize("kind", [Late, InAContainer])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_after_some_calls(agree, members, way, kind):
    late = type(kind.__name__, (kind,), {"way": staticmethod(way)})
    agree(members(late, 3), ch.each(X), steps=5)


class ByShape(Late):
    def forward(self, x, scale=1.0):
        h = self.layer(x)
        return type(self).way(self, x, h) if len(x) > 3 or scale > 1 else h


@pytest.mark.parametrize("rows", [2, 5])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_for_other_shapes_and_values(members, apart, way, rows):
    modules = members(type("ByShape", (ByShape,), {"way": staticmethod(way)}), 3)
    stack = ch.Stack(modules, seed=7)
    for _ in range(2):
        stack(ch.each(X[:, :2]), scale=1.0)
    scale = 2.0 if rows == 2 else 1.0
    mine, its = X[:, :rows].clone().requires_grad_(), X[:, :rows].clone().requires_grad_()
    found = flatten(stack(ch.each(mine * 1), scale=scale))[0]
    for index, module in enumerate(modules):
        with ch.randomness(seed=7, member=index, step=2):
            expected = flatten(module(its[index] * 1, scale=scale))[0]
        for one, other in zip(found, expected, strict=True):
            assert apart(one[index], other) < 1e-9
        expected[0].sum().backward()
        assert apart(stack[index].mean, module.mean) < 1e-9
    found[0].sum().backward()
    assert apart(mine.grad, its.grad) < 1e-9


def test_tensors_written_alone_need_no_look(members):
    class Keeps(Late):
        def forward(self, x):
            self.last = self.layer(x).detach()
            return self.layer(x)

    stack = ch.Stack(members(Keeps, 3))
    for _ in range(2):
        stack(ch.each(X))
        assert not stack._groups[0].changed
    counting = ch.Stack(members(type("Counts", (Late,), {"way": staticmethod(_hooks)}), 3))
    counting(ch.each(X))
    assert counting._groups[0].changed
