"""Members really trained one by one with ``torch.optim``: what it takes, and does it agree?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from chimera.draws.counter import member_keys
from chimera.fit.agreement import agreement, clip_alone
from chimera.fit.data import Data
from chimera.fit.evaluate import evaluate
from chimera.fit.optimizers import name_of, of_member
from chimera.fit.order import order
from chimera.fit.prepare import float_dtype, prepare
from chimera.fit.result import Result, Row
from chimera.fit.settings import Settings
from chimera.fit.training import synchronize
from chimera.stack import Stack

_TOLERANCE = 1e-6


@dataclass(frozen=True, repr=False)
class Comparison:
    """Members of a stack against the same members trained one by one.

    Attributes:
        members: the ids of the members that were trained again, one by one.
        stack_seconds: per member: the stack's training time, divided by all its members.
        loop_seconds: per member: the loop's training time, divided by the members it trained.
        table: a row per member: ``member``, and its test metric in the stack and in the loop.
        error: the worst difference between a member's tensors in a stack and in a loop, relative
            to the tensor's largest value (or to the way that the steps can go, where that is
            more), after the same steps in float64.
        steps: how many steps that were.
        agrees: whether ``error`` is below 1e-6.
        said: what was measured, in a sentence.
    """

    members: list[int]
    stack_seconds: float
    loop_seconds: float
    table: list[Row]
    error: float
    steps: int
    agrees: bool
    said: str

    @property
    def ratio(self) -> float:
        """How many times as long a member takes in the loop."""
        return self.loop_seconds / self.stack_seconds

    def __repr__(self) -> str:
        return (
            f"Comparison({_ms(self.stack_seconds)} per member in the stack, "
            f"{_ms(self.loop_seconds)} in the loop: {self.ratio:.1f} times; "
            f"float64 error {self.error:.1e} after {self.steps} steps)"
        )

    def __str__(self) -> str:
        same = "the same" if self.agrees else "NOT the same"
        return (
            f"{self.said}: {_ms(self.stack_seconds)} a member in the stack, "
            f"{_ms(self.loop_seconds)} one by one, {self.ratio:.1f} times as long. In float64 "
            f"{self.steps} steps gave {same} weights (relative error {self.error:.0e})."
        )


def compare_loop(modules: Sequence[nn.Module], result: Result, k: int) -> Comparison:
    """Trains the first ``k`` members again, one by one, and compares with the stack.

    Each is a plain module with the optimizer of ``torch.optim`` that has the same name (its fused
    form), the same start, learning rate and batches, for as many epochs. Timed are the training
    steps alone, batches gathered included, evaluation left out, on both sides. The loop draws
    its dropout from torch's own generator, as such a loop does; whether stack and loop agree is
    seen apart from that: in float64, with the same draws, over some first steps.

    Args:
        modules: the modules that ``ch.fit`` got, as they were.
        result: what it gave.
        k: how many members to train again.

    Raises:
        TypeError: ``modules`` is a Stack: it has been trained in place.
        ValueError: ``k`` is out of range, or ``modules`` are not as many as the result has.
    """
    if isinstance(modules, Stack):
        raise TypeError("compare_loop needs the modules as they were; a Stack was trained in place")
    if len(modules) != len(result.stack):
        raise ValueError(
            f"modules must be those of the result, {len(result.stack)}, got {len(modules)}"
        )
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(modules):
        raise ValueError(f"k must be between 1 and {len(modules)}, got {k!r}")
    settings = result.settings.of_members(range(k), len(modules))
    device = result.stack.device
    data = settings.data
    start = prepare(modules[:k], data, settings.seed, device)
    data = data.to(device, float_dtype(start))
    rates = torch.tensor([row["lr"] for row in result.table[:k]], dtype=torch.float64)
    error, steps = agreement([start[i] for i in range(k)], data, settings, rates)
    optimizer = settings.optimizer(start, lr=rates)
    seconds, table = 0.0, []
    for position in range(k):
        module = start[position]
        seconds += _train_alone(
            module, of_member(optimizer, position, module, fused=True), data, settings, position
        )
        alone = evaluate(
            Stack([module.eval()]), data.test, settings.loss, settings.metric, settings.chunk
        )
        row = result.table[position]
        column = f"test_{result.metric}"
        table.append(
            {"member": row["member"], "stack": row[column], "loop": float(alone.metric[0])}
        )
    return Comparison(
        members=[row["member"] for row in table],
        stack_seconds=result.train_seconds / len(result.stack),
        loop_seconds=seconds / k,
        table=table,
        error=error,
        steps=steps,
        agrees=error <= _TOLERANCE,
        said=(
            f"Training steps alone: {k} of {len(modules)} members trained one by one with "
            f"torch.optim.{name_of(settings.optimizer)}(fused=True), "
            f"{settings.epochs} epochs of the same batches"
        ),
    )


def _train_alone(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    settings: Settings,
    position: int,
) -> float:
    """Trains one module as a plain loop does; the seconds it took."""
    module.train()
    keys = member_keys(settings.seed, [position], data.device)
    start = time.perf_counter()
    for epoch in range(settings.epochs):
        rows = order(keys, epoch, len(data.train))[0]
        for chosen in torch.split(rows, settings.batch_size):
            optimizer.zero_grad()
            output = module(data.train.x.index_select(0, chosen))
            settings.loss(output, data.train.y.index_select(0, chosen)).backward()
            clip_alone(module, settings.clip_of(position))
            optimizer.step()
    synchronize(data.device)
    return time.perf_counter() - start


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
