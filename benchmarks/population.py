"""Populations of small networks: a loop of plain modules, torch.func by hand, and a Stack.

    python benchmarks/population.py [--device cuda] [--rounds 15]

A row is a training step (forward, loss, backward, Adam) of all members; each member has its own
batch. The loop has one ``torch.optim.Adam(fused=True)`` a module; by hand means
``torch.func.functional_call`` under ``vmap`` with one fused Adam over the stacked parameters and
one learning rate for all; the Stack has a learning rate per member. Before anything is timed, all
take ten steps in float64 and must agree within 1e-6 of each tensor's largest value.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timing import hardware, medians
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

import chimera as ch

Step = Callable[[], object]


class FixedHidden(nn.Module):
    """A constant random layer between two uses of one linear layer, then halved until small."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Buffer(torch.rand(20, 20))
        self.linear = nn.Linear(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(torch.relu(self.linear(x) @ self.constant + 1))
        while x.abs().sum() > 1:
            x = x / 2
        return x.sum()


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target) ** 2


@dataclass(frozen=True)
class Row:
    """One comparison: ``members`` modules of a factory, their batches and loss."""

    name: str
    factory: Callable[[], nn.Module]
    members: int
    x: tuple[int, ...]
    classes: int | None
    by_hand: bool = True

    def batches(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Inputs [members, *x] and targets, one batch a member."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.members, *self.x, generator=generator, dtype=torch.float64)
        if self.classes is None:
            y = torch.randn(self.members, generator=generator, dtype=torch.float64).to(dtype)
        else:
            shape = (self.members, self.x[0])
            y = torch.randint(self.classes, shape, generator=generator)
        return x.to(device, dtype), y.to(device)

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return squared if self.classes is None else nn.functional.cross_entropy


def mlp(inputs: int, hidden: int, outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


ROWS = [
    Row("256 MLPs 64->32->10, batch 32", mlp(64, 32, 10), 256, (32, 64), 10),
    Row("64 MLPs 20->256->10, batch 32", mlp(20, 256, 10), 64, (32, 20), 10),
    Row("200 fixed-hidden networks, batch 2", FixedHidden, 200, (2, 20), None, by_hand=False),
]


def loop(modules: list[nn.Module], row: Row, x: Tensor, y: Tensor) -> Step:
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-3, fused=True) for m in modules]

    def step() -> None:
        for module, optimizer, inputs, target in zip(modules, optimizers, x, y, strict=True):
            optimizer.zero_grad()
            row.loss(module(inputs), target).backward()
            optimizer.step()

    return step


def by_hand(modules: list[nn.Module], row: Row, x: Tensor, y: Tensor) -> tuple[Step, dict]:
    parameters, buffers = stack_module_state(modules)
    skeleton = copy.deepcopy(modules[0]).to("meta")
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3, fused=True)

    def one(parameters: dict, buffers: dict, inputs: Tensor, target: Tensor) -> Tensor:
        return row.loss(functional_call(skeleton, (parameters, buffers), (inputs,)), target)

    batched = torch.vmap(one)

    def step() -> None:
        optimizer.zero_grad()
        batched(parameters, buffers, x, y).sum().backward()
        optimizer.step()

    return step, parameters


def stacked(modules: list[nn.Module], row: Row, x: Tensor, y: Tensor) -> tuple[Step, ch.Stack]:
    stack = ch.Stack(modules)
    optimizer = ch.optim.Adam(stack, lr=torch.full((row.members,), 1e-3))
    step = ch.train_step(stack, row.loss, optimizer)
    return lambda: step(ch.each(x), ch.each(y)), stack


def check(row: Row, device: torch.device, steps: int = 10) -> float:
    """The worst difference from the loop after steps in float64; raises if it is no rounding."""
    modules = [m.to(device).double() for m in ch.instances(row.factory, row.members, seed=0)]
    x, y = row.batches(device, torch.float64)
    ours, stack = stacked(modules, row, x, y)
    steps_of = [ours]
    hand = None
    if row.by_hand:
        hand_step, hand = by_hand(copy.deepcopy(modules), row, x, y)
        steps_of.append(hand_step)
    steps_of.append(loop(modules, row, x, y))
    for _ in range(steps):
        for step in steps_of:
            step()
    worst = 0.0
    for position, module in enumerate(modules):
        came = dict(stack[position].named_parameters())
        for name, expected in module.named_parameters():
            candidates = [came[name]] + ([hand[name][position]] if hand else [])
            for other in candidates:
                gap = (other - expected).abs().max() / expected.abs().max()
                worst = max(worst, gap.item())
    if not worst <= 1e-6:
        raise AssertionError(
            f"{row.name}: differs from the loop by {worst:.1e} after {steps} steps"
        )
    return worst


def measure(row: Row, device: torch.device, rounds: int) -> dict[str, float]:
    """Seconds a step, by candidate."""
    modules = [m.to(device) for m in ch.instances(row.factory, row.members, seed=0)]
    x, y = row.batches(device, torch.float32)
    candidates: dict[str, Step] = {"loop": loop(copy.deepcopy(modules), row, x, y)}
    if row.by_hand:
        candidates["by hand"] = by_hand(copy.deepcopy(modules), row, x, y)[0]
    candidates["Stack"] = stacked(modules, row, x, y)[0]
    return medians(candidates, rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = torch.device(options.device)
    print(hardware(device))
    print(f"medians of {options.rounds} rounds, milliseconds a step of all members\n")
    columns = "{:<36} {:>9} {:>9} {:>9} {:>11} {:>14} {:>10}"
    print(
        columns.format("", "loop", "by hand", "Stack", "loop/Stack", "by hand/Stack", "difference")
    )
    for row in ROWS:
        worst = check(row, device)
        found = measure(row, device, options.rounds)
        hand = found.get("by hand")
        print(
            columns.format(
                row.name,
                f"{1000 * found['loop']:.2f}",
                f"{1000 * hand:.2f}" if hand else "refuses",
                f"{1000 * found['Stack']:.2f}",
                f"{found['loop'] / found['Stack']:.1f}",
                f"{hand / found['Stack']:.2f}" if hand else "-",
                f"{worst:.0e}",
            )
        )


if __name__ == "__main__":
    main()
