"""Hooks of tensors and modules, by names that are torch's own: these tell when they change."""

import copy

import pytest
import torch
from torch import nn

from chimera.paths.hooks import has_hooks, is_hooked


@pytest.mark.parametrize(
    "register", [torch.Tensor.register_hook, torch.Tensor.register_post_accumulate_grad_hook]
)
def test_hooks_are_seen_and_no_copy_keeps_them(register):
    parameter = nn.Parameter(torch.ones(2))
    assert not has_hooks(parameter)
    handle = register(parameter, lambda _: None)
    assert has_hooks(parameter)
    assert not has_hooks(copy.deepcopy(parameter))
    handle.remove()
    assert not has_hooks(parameter)


@pytest.mark.parametrize(
    "register",
    [
        nn.Module.register_forward_hook,
        nn.Module.register_forward_pre_hook,
        nn.Module.register_full_backward_hook,
        nn.Module.register_full_backward_pre_hook,
    ],
)
def test_hooks_of_a_module_are_seen_and_its_children_are_not_asked(register):
    net = nn.Sequential(nn.Linear(2, 2))
    assert not is_hooked(net[0])
    handle = register(net[0], lambda *_: None)
    assert is_hooked(net[0])
    assert not is_hooked(net)
    handle.remove()
    assert not is_hooked(net[0])
