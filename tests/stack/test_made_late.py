"""State that calls make from a constant, and parameters whose place moves as tensors appear."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chimera as ch


class Registers(nn.Module):
    """A buffer made at the first call, changed in place at the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.ones(4))
        out: Tensor = self.layer(x * self.scale)
        self.scale += 1
        return out


class Fills(Registers):
    """The same of a buffer that was None."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = torch.ones_like(x[:1])
        return super().forward(x * self.mask)


class Holds(nn.Module):
    """The same of an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.zeros(4)
        self.scale.add_(1)
        out: Tensor = self.layer(x * self.scale)
        return out


class Resets(nn.Module):
    """A buffer that every other call sets to a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("scale", torch.ones(4))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls % 2:
            self.scale = torch.zeros(4)
        self.scale += 1
        out: Tensor = self.layer(x * self.scale)
        return out


KINDS: list[Callable[[], Any]] = [Registers, Fills, Holds, Resets]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_as_alone(kind: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    nets = [kind().double() for _ in range(3)]
    alone = copy.deepcopy(nets)
    stack = ch.Stack(nets)
    step = ch.train_step(stack, nn.functional.mse_loss, ch.optim.SGD(stack, lr=0.01))
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.01) for net in alone]
    x, y = torch.randn(8, 4).double(), torch.randn(8, 2).double()
    for _ in range(5):
        losses = []
        for net, optimizer in zip(alone, optimizers, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        torch.testing.assert_close(step(x, y), torch.stack(losses))
    for member, net in zip(stack, alone, strict=True):
        torch.testing.assert_close(member.layer.weight, net.layer.weight)
        torch.testing.assert_close(member.scale, net.scale)


@pytest.mark.parametrize("kind", KINDS)
def test_writing_one_member_leaves_the_others(kind: Callable[[], Any]) -> None:
    stack = ch.Stack([kind() for _ in range(3)])
    stack(torch.randn(2, 4))
    before = [member.scale.clone() for member in stack]
    one = stack[1]
    one.scale.fill_(7.0)
    stack[1] = one
    found = [member.scale for member in stack]
    torch.testing.assert_close(found, [before[0], torch.full((4,), 7.0), before[2]])
