"""Hooks of tensors, by names that are torch's own: these tell when they change."""

import copy

import pytest
import torch
from torch import nn

from chimera.paths.tensor_hooks import has_hooks


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
