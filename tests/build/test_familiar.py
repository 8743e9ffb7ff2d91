"""Calls whose results are known without data: a trial with and without them shows the same."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

import chimera as ch
from chimera.build.familiar import Familiar
from chimera.build.inputs import as_specified
from chimera.build.trial import try_shapes


class Chain(nn.Module):
    def __init__(self, run=lambda self, x: self.net(x)) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8, bias=False))
                for _ in range(3)
            )
        )
        self.run = run
        self.wide = nn.Linear(64, 64)

    def forward(self, x):
        return self.run(self, x)


def penalty(self, x):
    x = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
    assert grad.requires_grad
    return grad


def ensembled(self, x):
    weights = {name: torch.stack([p, p]) for name, p in self.net.named_parameters()}
    return vmap(lambda w: functional_call(self.net, w, (x,)))(weights)


def turned(self, x):
    return self.net(x.expand(3, 2, 8).transpose(0, 1)).reshape(6, 8)


def single(self, x):
    return self.net(x[0])


def unrecorded(self, x):
    with torch.no_grad():
        assert not self.net(x).requires_grad
    out = self.net(x)
    assert out.requires_grad
    return out


def lowered(self, x):
    with torch.autocast("cpu", torch.bfloat16):
        return self.net(x)


def conditioned(self, x):
    return self.net(x) if x.sum() > 0 else self.net(x)[:1]


def twice_wide(self, x):
    return self.wide(self.wide(x.repeat(1, 8)))


def tangent(self, x):
    return torch.func.jvp(self.net, (x,), (x,))[1]


@pytest.mark.parametrize(
    "run",
    [
        lambda self, x: self.net(x),
        *(penalty, ensembled, turned, single, unrecorded, lowered, conditioned, twice_wide),
        tangent,
    ],
)
def test_a_trial_shows_the_same(run):
    net, spec = Chain(run), as_specified(ch.spec(2, 8))
    found = try_shapes(net, spec)
    plain = try_shapes(net, spec, watch=lambda _: nullcontext())
    assert found.output == plain.output
    assert {path: call.output for path, call in found.calls.items()} == {
        path: call.output for path, call in plain.calls.items()
    }


def test_a_misfit_is_told_as_before():
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), nn.Linear(7, 8))
    with pytest.raises(RuntimeError, match="reduction dim") as caught:
        ch.shapes(net, ch.spec(2, 8))
    assert "in the module at 3" in caught.value.__notes__[0]


def test_a_known_call_is_not_made_again():
    calls = []

    def call(func, args, named):
        calls.append(func)
        return func(*args, **named)

    known = Familiar()
    x, layer = torch.empty(5, 3, 8, device="meta"), nn.Linear(8, 4, device="meta")
    for _ in range(3):
        out = known(call, nn.functional.linear, (x, layer.weight, layer.bias), {})
        assert (out.shape, out.is_meta, out.requires_grad) == ((5, 3, 4), True, True)
    assert len(calls) == 1
    out.sum().backward()
    assert layer.weight.grad.shape == (4, 8)
    assert layer.bias.grad.shape == (4,)
    known(call, nn.functional.linear, (x[:2], layer.weight, layer.bias), {})
    assert len(calls) == 2
