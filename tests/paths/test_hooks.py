"""Hooks of tensors and modules, by names that are torch's own: these tell when they change."""

import copy

import pytest
import torch
from torch import nn

from chimera.paths.hooks import any_hooks, has_hooks, hook_tables, hooks_of_all, is_hooked


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


@pytest.mark.parametrize(
    "name", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]
)
def test_hooks_of_all_modules_are_found(name):
    assert not hooks_of_all()
    handle = getattr(nn.modules.module, f"register_module_{name}")(lambda *given: None)
    try:
        assert hooks_of_all()
    finally:
        handle.remove()
    assert not hooks_of_all()


@pytest.mark.parametrize("name", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_tensors_are_found(name):
    tensors = [torch.ones(2, requires_grad=True) for _ in range(3)]
    assert not any_hooks(tensors)
    handle = getattr(tensors[1], name)(lambda given: None)
    assert any_hooks(tensors)
    handle.remove()
    assert not any_hooks(tensors)


def test_tables_stand_whether_or_not_hooks_are_in_them():
    net = nn.Linear(2, 2)
    assert [len(table) for table in hook_tables(net)] == [0] * 4
    net.register_forward_hook(lambda *given: None)
    net.register_full_backward_pre_hook(lambda *given: None)
    assert sorted(len(table) for table in hook_tables(net)) == [0, 0, 1, 1]
