"""Which transform a tensor belongs to, and the private names of torch that tell."""

import importlib

import torch

from chimera.decide import transforms
from chimera.decide.transforms import is_batched_inside, is_inside, level


def test_the_private_names_are_there():
    assert importlib.reload(transforms).PRIVATE, "torch moved a name: nothing is known any more"


def test_levels_are_counted():
    seen = [level()]

    def member(x):
        seen.append(level())
        return torch.func.grad(lambda y: (seen.append(level()), y.sum())[1])(x)

    torch.vmap(member)(torch.zeros(3, 2))
    assert seen == [0, 1, 2]
    assert level() == 0


def test_a_tensor_of_the_modules_own_transform_is_told_from_a_members():
    seen = {}

    def inner(y, x):
        seen["of grad"] = (is_inside(y, 1), is_batched_inside(y, 1))
        return (y * x).sum()

    def member(x):
        seen["of the member"] = (is_inside(x, 1), is_batched_inside(x, 1))
        seen["of vmap"] = torch.vmap(
            lambda row: (
                row,
                seen.setdefault("row", (is_inside(row, 1), is_batched_inside(row, 1))),
            )[0]
        )(x)
        torch.vmap(torch.func.grad(lambda row: _note(seen, row)))(x)
        return torch.func.grad(inner)(x, x)

    torch.vmap(member)(torch.ones(3, 2, 2))
    assert seen["of grad"] == (True, False)
    assert seen["of the member"] == (False, False)
    assert seen["row"] == (True, True)
    assert seen["of grad in vmap"] == (True, True)
    assert not is_inside(torch.zeros(2), 0)


def _note(seen, row):
    seen["of grad in vmap"] = (is_inside(row, 1), is_batched_inside(row, 1))
    return row.sum()


def test_without_the_names_nothing_is_known(monkeypatch):
    monkeypatch.setattr(transforms, "PRIVATE", False)
    assert level() == 0
    assert torch.vmap(lambda x: x * is_inside(x, 0))(torch.ones(2)).tolist() == [0, 0]
