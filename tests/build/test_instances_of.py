"""One instance of each of several factories."""

import functools

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.build.instances import instances, instances_of


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.LazyLinear(width), nn.Linear(width, 2))


def test_each_is_what_instances_makes_in_its_place() -> None:
    widths = [3, 5, 3, 4]
    spec = ch.spec(2, 6)
    made = instances_of([functools.partial(net, width) for width in widths], seed=4, spec=spec)
    for place, (module, width) in enumerate(zip(made, widths, strict=True)):
        alone = instances(net, 4, width, seed=4, spec=spec)[place]
        for mine, theirs in zip(module.parameters(), alone.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="factories is empty"):
        instances_of([])
    with pytest.raises(TypeError, match=r"factories\[1\] must be a class"):
        instances_of([lambda: net(2), nn.Linear(2, 2)])  # type: ignore[list-item]
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="instances 0 and 1 are one module"):
        instances_of([lambda: shared, lambda: shared])
