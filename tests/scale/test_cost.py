"""Predicted costs against arithmetic counted by hand, and the shares that follow from them."""

import itertools

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.fit.settings import checked
from chimera.fit.share import shares_of
from chimera.scale.cost import step_cost


def linear(rows: int, inputs: int, outputs: int) -> int:
    """Operations of the product, and ten a number that the layer writes, forward and backward."""
    return 3 * (2 * rows * inputs * outputs + 10 * rows * outputs)


def optimizer(*layers: nn.Module) -> int:
    return 10 * 10 * sum(p.numel() for layer in layers for p in layer.parameters())


def test_a_linear_layer_costs_its_product():
    layer = nn.Linear(7, 3)
    assert step_cost(layer, torch.randn(5, 7)) == linear(5, 7, 3) + optimizer(layer)


def test_layers_add_up_and_every_module_counts_what_it_writes():
    net = nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 3))
    written = 3 * 10 * (5 * 4 + 5 * 3)  # by Tanh, and by the Sequential itself
    expected = linear(5, 7, 4) + linear(5, 4, 3) + written + optimizer(net)
    assert step_cost(net, torch.randn(5, 7)) == expected


def test_a_convolution_costs_its_products():
    layer = nn.Conv2d(2, 4, 3, bias=False)
    products = 2 * 5 * 4 * (6 * 6) * (2 * 3 * 3)
    numbers = 10 * 5 * 4 * 6 * 6
    assert step_cost(layer, torch.randn(5, 2, 8, 8)) == 3 * (products + numbers) + optimizer(layer)


def test_what_costs_nothing_has_a_cost_and_nothing_is_drawn():
    assert step_cost(nn.Identity(), torch.zeros(0, 3)) == 1.0
    state = torch.get_rng_state()
    step_cost(nn.Dropout(0.5), torch.ones(4, 4))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("widths", [(2, 2, 2, 2, 256), (4, 64, 4, 64, 4, 64), (512, 1, 1, 1, 1, 1)])
def test_uneven_members_are_shared_by_cost(widths, ranks):
    """No rank holds more than 4/3 of what the best way to share would give the dearest."""
    x = torch.randn(60, 6)
    data = ch.data(x, (x[:, 0] > 0).long())
    nets = [nn.Sequential(nn.Linear(6, w), nn.ReLU(), nn.Linear(w, 2)) for w in widths]
    settings = checked(data, None, None, None, 1, 8, 0)
    costs = [step_cost(net, data.train.x[:8]) for net in nets]
    held = shares_of(ch.Stack(nets), data, settings, ranks)
    assert sorted(itertools.chain(*held)) == list(range(len(widths)))
    loads = [sum(costs[p] for p in share) for share in held]
    ways = itertools.product(range(ranks), repeat=len(widths))
    best = min(
        max(sum(c for c, rank in zip(costs, way, strict=True) if rank == r) for r in range(ranks))
        for way in ways
    )
    assert max(loads) <= 4 / 3 * best
    counts = [len(share) for share in held]
    if widths[0] == 512:
        assert sorted(counts)[0] == 1  # the wide one alone
