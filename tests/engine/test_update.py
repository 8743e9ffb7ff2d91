"""The step of torch's optimizers by its fused kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from chimera.engine.network import named, standing
from chimera.engine.update import fused

ADAM = (torch.optim.Adam, torch.optim.AdamW)


def parameters(dtype=torch.float64, last=False):
    torch.manual_seed(0)
    found = [
        nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((3, 4), (5,), (2, 3, 2, 2))
    ]
    if last:
        found[2].data = found[2].data.contiguous(memory_format=torch.channels_last)
    return found


def took(make, steps=3, *, quick, first=None, **kinds):
    mine, generator = parameters(**kinds), torch.Generator().manual_seed(1)
    optimizer, served = make(mine), []
    for _ in range(steps):
        for parameter in mine[first:]:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if quick:
            with fused(optimizer) as all_of_them:
                served.append(all_of_them)
                optimizer.step()
        else:
            optimizer.step()
    return mine, optimizer, served


def same(make, serves=True, first=None, **kinds):
    ours, optimizer, served = took(make, quick=True, first=first, **kinds)
    theirs, other, _ = took(make, quick=False, first=first, **kinds)
    assert all(served) == serves
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    mine, plain = optimizer.state_dict(), other.state_dict()
    assert mine["param_groups"] == plain["param_groups"]
    torch.testing.assert_close(mine["state"], plain["state"], rtol=1e-6, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from(ADAM),
    lr=st.floats(1e-4, 1.0),
    decay=st.sampled_from((0.0, 0.1)),
    amsgrad=st.booleans(),
    maximize=st.booleans(),
)
def test_adam_steps_as_torch_does(make, lr, decay, amsgrad, maximize):
    options = {"lr": lr, "weight_decay": decay, "amsgrad": amsgrad, "maximize": maximize}
    same(lambda own: make(own, **options))


@settings(max_examples=40, deadline=None)
@given(
    lr=st.floats(1e-4, 1.0),
    momentum=st.sampled_from((0.0, 0.9)),
    decay=st.sampled_from((0.0, 0.1)),
    nesterov=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)
def test_sgd_steps_as_torch_does(lr, momentum, decay, nesterov, dtype):
    options = {"lr": lr, "momentum": momentum, "weight_decay": decay}
    options["nesterov"] = nesterov and momentum > 0
    same(lambda own: torch.optim.SGD(own, **options), dtype=dtype)


def test_parameters_without_a_gradient_are_passed_over():
    same(torch.optim.Adam, first=1)


def test_memory_in_another_order_is_left_to_the_optimizer():
    same(torch.optim.Adam, serves=False, last=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda own: torch.optim.Adam(own, foreach=True),
        lambda own: torch.optim.Adam(own, fused=False),
        lambda own: torch.optim.Adam(own, lr=torch.tensor(0.1)),
        torch.optim.NAdam,
        lambda own: type("Mine", (torch.optim.Adam,), {})(own),
    ],
)
def test_what_was_asked_for_stays(make):
    same(make, serves=False)


def test_narrow_numbers_stay():
    same(lambda own: torch.optim.SGD(own, lr=0.1), serves=False, dtype=torch.bfloat16)


def test_momentum_begun_apart_stays():
    def make(own):
        optimizer = torch.optim.SGD(own, lr=0.1, momentum=0.9)
        own[0].grad = torch.ones_like(own[0])
        optimizer.step()
        return optimizer

    served = took(make, 2, quick=True)[2]
    assert served == [False, True]


def test_the_groups_read_as_before_after_an_error():
    optimizer = torch.optim.Adam(parameters())
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.register_step_pre_hook(lambda *_: 1 / optimizer.param_groups[0]["fused"] - 1 / 0)
    with pytest.raises(ZeroDivisionError), fused(optimizer):
        optimizer.step()
    assert optimizer.param_groups[0]["fused"] is None


def test_the_walk_finds_what_torch_names():
    inner = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False))
    tied = nn.Sequential(inner, inner[0], nn.ModuleDict({"a": inner[2], "b": nn.BatchNorm1d(3)}))
    tied.again = inner[0].weight
    tied.nothing = None
    tied.register_module("missing", None)
    tied[2].eval()
    tensors, modes = standing(tied)
    assert list(map(id, tensors)) == [id(tensor) for _, tensor in named(tied)]
    assert modes == tuple(part.training for part in tied.modules())
