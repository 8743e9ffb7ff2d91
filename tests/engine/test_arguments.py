"""Arguments and tensors of other strides, and what lies outside the network, in recorded steps."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import chimera as ch

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "expanded": lambda x: x[:1].expand_as(x),
    "sliced": lambda x: torch.cat([x, x + 1], 1)[:, :: 2 if x.shape[1] > 1 else 1][:, : x.shape[1]],
    "part of a matrix": lambda x: torch.cat([x + 1, x], 1)[:, x.shape[1] :],
}


def ran(engine: str, net: nn.Module, batches: list[tuple[Any, Any]]) -> tuple[list[Tensor], Any]:
    net = copy.deepcopy(net)
    if isinstance(net, ch.Stack):
        optimizer: Any = ch.optim.SGD(net, lr=0.1)
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step = ch.train_step(net, F.mse_loss, optimizer, engine=engine)
    return [step(x, y).clone() for x, y in batches], step


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["input", "target"])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_step_of_later_arguments_in_other_memory(layout: str, which: str, stacked: bool) -> None:
    nets = ch.instances(nn.Linear, 3, 4, 4, seed=0)
    net = ch.Stack(nets) if stacked else nets[0]
    torch.manual_seed(0)
    batches: list[tuple[Any, Any]] = [(torch.randn(6, 4), torch.randn(6, 4)) for _ in range(8)]
    for place in range(4, 8):
        x, y = batches[place]
        other = LAYOUTS[layout]
        batches[place] = (other(x), y) if which == "input" else (x, other(y))
    eager, _ = ran("eager", net, batches)
    compiled, step = ran("compiled", net, batches)
    torch.testing.assert_close(compiled, eager)
    assert "2 of 2 kinds" in str(ch.explain(step))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_call_of_later_arguments_in_other_memory(layout: str) -> None:
    net = nn.Sequential(nn.Tanh()).eval()
    call, x = ch.infer(net, engine="compiled"), torch.randn(6, 4)
    for _ in range(3):
        call(x)
    other = LAYOUTS[layout](x)
    for _ in range(3):
        torch.testing.assert_close(call(other), net(other))


def test_a_weight_in_other_memory() -> None:
    net = nn.Linear(4, 4).eval()
    call, x = ch.infer(net, engine="compiled"), torch.randn(6, 4)
    for _ in range(3):
        call(x)
    net.weight.data = net.weight.data.t().contiguous().t()
    torch.testing.assert_close(call(x), net(x))


class Learned(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target) * (-self.weight).exp() + self.weight


@pytest.mark.parametrize("stacked", [False, True])
def test_a_parameter_of_the_loss_keeps_its_gradient(stacked: bool) -> None:
    x, y, found = torch.randn(6, 4), torch.randn(6, 2), []
    for engine in ("eager", "compiled"):
        nets = ch.instances(nn.Linear, 3, 4, 2, seed=0)
        loss = Learned()
        net: Any = ch.Stack(nets) if stacked else nets[0]
        optimizer: Any = (
            ch.optim.SGD(net, lr=0.1)
            if stacked
            else torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1)
        )
        step = ch.train_step(net, loss, optimizer, engine=engine)
        told = pytest.warns(ch.ChimeraWarning, match="outside the network that needs a gradient")
        with told if engine == "compiled" else nullcontext():
            for _ in range(4):
                step(x, y)
        assert loss.weight.grad is not None
        found.append((loss.weight.detach().clone(), loss.weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1])


def test_an_encoder_before_the_step_keeps_its_gradient() -> None:
    net, encoder = nn.Linear(4, 2), nn.Linear(4, 4)
    step = ch.train_step(
        net, F.mse_loss, torch.optim.SGD(net.parameters(), lr=0.1), engine="compiled"
    )
    x, y = torch.randn(6, 4), torch.randn(6, 2)
    with pytest.warns(ch.ChimeraWarning, match="an argument needs a gradient"):
        _ = [step(encoder(x), y) for _ in range(4)]
    encoder.zero_grad()
    step(encoder(x), y)
    assert encoder.weight.grad is not None
    assert encoder.weight.grad.abs().sum() > 0
