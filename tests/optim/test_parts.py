"""Large parameters take their step in parts: the same numbers, in less memory beside them."""

import pytest
import torch

import chimera as ch
from chimera.optim import adam

SHAPES = [(3, 4), (3,), ()]


def stepped(layout_class, name, transposed=False, **settings):
    stack = layout_class([[0, 2, 3, 4, 6], [1, 5]], SHAPES)
    optimizer = getattr(ch.optim, name)(stack, **settings)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        for one in stack.layout():
            p = one.parameter
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            if transposed and p.dim() == 3:
                p.grad = p.grad.transpose(1, 2).contiguous().transpose(1, 2)
        stack.found[0].parameter.grad[1, 0, 0] = torch.nan  # of member 2 alone
        optimizer.step()
    return stack, optimizer


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("most", [1, 200, 400, 10**6])
@pytest.mark.parametrize(("name", "decay"), [("Adam", 0.0), ("Adam", 0.1), ("AdamW", 0.1)])
def test_parts_give_the_numbers_of_the_whole(
    layout_class, monkeypatch, name, decay, most, transposed
):
    settings = {"lr": [1e-3, 1e-2, 0.1, 1.0, 0.2, 0.3, 0.4], "weight_decay": decay}
    expected, whole = stepped(layout_class, name, transposed, **settings)
    monkeypatch.setattr(adam, "AT_ONCE", most)
    found, parted = stepped(layout_class, name, transposed, **settings)
    for one, other in zip(expected.layout(), found.layout(), strict=True):
        torch.testing.assert_close(
            other.parameter, one.parameter, rtol=1e-13, atol=1e-15, equal_nan=True
        )
    first = found.found[0].parameter
    assert first[1, 0, 0].isnan()
    assert first.isnan().sum() == 1
    kept, told = whole.state_dict()["state"], parted.state_dict()["state"]
    for parameter, state in kept.items():
        assert all(
            torch.allclose(state[key], told[parameter][key], rtol=1e-13, equal_nan=True)
            for key in state
        )
        assert told[parameter]["step"] == 4


def test_a_part_is_what_is_kept_beside_a_large_parameter(layout_class, monkeypatch):
    monkeypatch.setattr(adam, "AT_ONCE", 200)
    _, optimizer = stepped(layout_class, "AdamW", lr=[0.1] * 7)
    assert optimizer._slates
    assert all(slate.nbytes <= 200 for slate in optimizer._slates.values())
    large = [e for group in optimizer.groups for e in group.entries if e.parameter.nbytes > 200]
    assert large
    assert all(entry.scratch is None for entry in large)
