"""Hooks that look for numbers do not keep a network from running without data."""

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import chimera as ch

LOOKS = {
    "build": lambda net: ch.build(net, ch.spec("batch", 4)),
    "shapes": lambda net: ch.shapes(net, ch.spec("batch", 4)),
    "summary": lambda net: ch.summary(net, ch.spec("batch", 4)),
    "summary, measured": lambda net: ch.summary(net, ch.spec("batch", 4), measure=True),
    "check": lambda net: ch.check(net, ch.spec("batch", 4)),
    "contract": lambda net: ch.contract(net, ch.spec("batch", 4)),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_hook_that_needs_numbers_is_passed_over(look):
    kept = []
    net = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
    for part in (net, *net):
        part.register_forward_hook(lambda m, i, o: kept.append(o.detach().numpy()))
        part.register_forward_pre_hook(lambda m, i: kept.append(float(i[0].detach().mean())))
    look(net)
    assert kept == []
    ch.build(net, ch.spec("batch", 4))(torch.ones(2, 4))
    assert len(kept) == 6


def test_what_such_a_hook_changes_without_numbers_holds():
    net = nn.Sequential(nn.Linear(4, 3))
    net[0].register_forward_hook(lambda m, i, o: torch.cat([o, o], 1))
    net[0].register_forward_hook(lambda m, i, o: setattr(m, "kept", o.tolist()))
    assert ch.shapes(net, ch.spec(2, 4)).output == ch.spec(2, 6)


def test_what_a_hook_raises_for_another_reason_is_told():
    net = nn.Sequential(nn.Linear(4, 3))
    net[0].register_forward_hook(lambda m, i, o: o @ o)
    with pytest.raises(RuntimeError):
        ch.build(net, ch.spec(2, 4))


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_hooks_on_all_modules_stay_out(look):
    seen = []
    handle = register_module_forward_hook(lambda m, i, o: seen.append(o.numpy()))
    try:
        look(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    finally:
        handle.remove()
    assert seen == []
