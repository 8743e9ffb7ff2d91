"""The private name that tells whether a transform looks on."""

import torch

from chimera.fuse import transforms
from chimera.fuse.transforms import transformed


def test_torch_still_has_the_name() -> None:
    assert transforms._active is not None


def test_a_transform_is_seen() -> None:
    assert not transformed()
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(transformed())
        return x.sum()

    torch.func.grad(function)(torch.ones(2))
    torch.vmap(function)(torch.ones(2, 2))
    assert seen == [True, True]
    assert not transformed()
