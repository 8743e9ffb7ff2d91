"""Clipping every member's gradients: as ``clip_grad_norm_`` on each module alone."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import chimera as ch
from chimera.optim import clip as clip_file


def modules(dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    made: list[nn.Module] = []
    for i in range(5):
        net = nn.Sequential(nn.Linear(3, 4 + i % 2), nn.Tanh(), nn.Linear(4 + i % 2, 2))
        if i == 2:
            net[0].weight.requires_grad_(False)
        net.register_parameter("scale", nn.Parameter(torch.ones(())))
        made.append(net.to(dtype))
    return made


def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 5 * (output - y).square().sum()


def compare(limit: Any, dtype: torch.dtype = torch.float64, steps: int = 3) -> bool:
    """Whether a clipped training of the stack is that of the members alone."""
    torch.manual_seed(0)
    stack = ch.Stack(modules(dtype))
    alone = stack.modules_list()
    step = ch.train_step(stack, loss, ch.optim.SGD(stack, lr=0.05, momentum=0.5), clip=limit)
    limits = limit if isinstance(limit, (list, torch.Tensor)) else [limit] * len(stack)
    others = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.5) for m in alone]
    for _ in range(steps):
        x, y = torch.randn(6, 3).to(dtype), torch.randn(6, 2).to(dtype)
        step(x, y)
        for module, other, each in zip(alone, others, limits, strict=True):
            other.zero_grad()
            loss(module(x), y).backward()
            nn.utils.clip_grad_norm_(module.parameters(), float(each))
            other.step()
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {}
    for i, module in enumerate(alone):
        for mine, theirs in zip(stack[i].parameters(), module.parameters(), strict=True):
            if not torch.allclose(mine, theirs, **tolerance):
                return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", [0.1, 3, 1e6, 0.0, [0.1, 1.0, 5.0, 0.2, 30.0]])
def test_equal_to_the_members_alone(limit: Any, dtype: torch.dtype) -> None:
    assert compare(limit, dtype)


def test_one_norm_for_all_members_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def coupled(gradients: list[torch.Tensor], limit: torch.Tensor) -> None:
        total = torch.stack([g.norm() for g in gradients]).norm()
        for gradient in gradients:
            gradient.mul_((limit[0] / (total + 1e-6)).clamp(max=1.0))

    monkeypatch.setattr(clip_file, "_scale", coupled)
    assert not compare(1.0)


@given(st.lists(st.floats(0, 50), min_size=5, max_size=5))
@settings(deadline=None, max_examples=15)
def test_any_limits(limits: list[float]) -> None:
    assert compare(torch.tensor(limits, dtype=torch.float64), steps=2)


def test_a_member_without_finite_gradients_leaves_the_others() -> None:
    stack = ch.Stack([nn.Linear(2, 1) for _ in range(3)])
    before = stack.modules_list()
    step = ch.train_step(stack, lambda out: out.sum(), ch.optim.SGD(stack, lr=1.0), clip=0.5)
    x = torch.ones(3, 4, 2)
    x[1] = float("inf")
    step(ch.each(x))
    assert stack[1].weight.isnan().any()
    for i in (0, 2):
        moved = stack[i].weight - before[i].weight
        torch.testing.assert_close(
            torch.cat([moved.flatten(), stack[i].bias - before[i].bias]).norm(), torch.tensor(0.5)
        )


@pytest.mark.parametrize(
    ("limit", "kind", "message"),
    [
        (-1.0, ValueError, "clip is 0 or more"),
        ([1.0, 2.0], ValueError, "the stack has 3 members, 2 values came"),
        ([1.0, -2.0, 1.0], ValueError, "clip of member 1"),
        ("1", TypeError, "clip is a number or one per member"),
    ],
)
def test_mistakes(limit: Any, kind: type[Exception], message: str) -> None:
    stack = ch.Stack([nn.Linear(2, 1) for _ in range(3)])
    with pytest.raises(kind, match=message):
        ch.train_step(stack, loss, ch.optim.SGD(stack), clip=limit)
