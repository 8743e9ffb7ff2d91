"""One memory for the parameters of aligned modules."""

import torch
from torch import nn

from chimera.fuse.joint import Joint, joined


def layers(count: int = 3) -> list[nn.Linear]:
    return [nn.Linear(2, 2) for _ in range(count)]


def joint_of(modules: list[nn.Linear]) -> Joint:
    return Joint([(module, "weight") for module in modules])


def test_rows_are_the_modules_own_parameters() -> None:
    modules = layers()
    parameters = [module.weight for module in modules]
    values = torch.stack([p.detach().clone() for p in parameters])
    joint = joint_of(modules)
    (memory,), own = joined([joint])
    assert own
    assert torch.equal(memory, values)
    assert all(a is m.weight for a, m in zip(parameters, modules, strict=True))
    with torch.no_grad():
        modules[1].weight.fill_(7)
    (again,), _ = joined([joint])
    assert again.data_ptr() == memory.data_ptr()
    assert torch.equal(again[1], torch.full((2, 2), 7.0))


def test_gradients_are_rows_of_one_memory() -> None:
    modules = layers()
    modules[1].weight.requires_grad_(False)
    (memory,), _ = joined([joint_of(modules)])
    memory.backward(torch.arange(12.0).view(3, 2, 2))
    assert torch.equal(modules[2].weight.grad, torch.arange(8.0, 12.0).view(2, 2))
    assert modules[1].weight.grad is None
    first, last = modules[0].weight.grad, modules[2].weight.grad
    assert first.untyped_storage().data_ptr() == last.untyped_storage().data_ptr()


def test_rows_that_moved_are_joined_anew() -> None:
    modules = layers()
    joint = joint_of(modules)
    joined([joint])
    modules[0].weight.data = torch.ones(2, 2)
    (memory,), own = joined([joint])
    assert own
    assert torch.equal(memory[0], torch.ones(2, 2))
    for module in modules:
        module.double()
    (memory,), own = joined([joint])
    assert own
    assert memory.dtype is torch.float64


def test_other_tensors_in_their_place_are_stacked() -> None:
    modules = layers()
    joint = joint_of(modules)
    joined([joint])
    other = modules[0].weight = nn.Parameter(torch.zeros(2, 2))
    (stacked,), own = joined([joint])
    assert not own
    stacked.sum().backward()
    assert torch.equal(other.grad, torch.ones(2, 2))


def test_one_parameter_in_two_lanes_is_stacked() -> None:
    modules = layers(2)
    modules[1].weight = modules[0].weight
    (stacked,), own = joined([joint_of(modules)])
    assert not own
    stacked.sum().backward()
    assert torch.equal(modules[0].weight.grad, torch.full((2, 2), 2.0))
