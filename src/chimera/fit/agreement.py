"""Whether members trained in a stack are the members trained one by one: in float64, step by step.

In float32 two correct programs part ways after some steps, by rounding alone; in float64 they
stay together to many digits, so that a difference there is a fault.
"""

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws import randomness
from chimera.draws.counter import member_keys
from chimera.engine import train_step
from chimera.fit.data import Data
from chimera.fit.optimizers import of_member
from chimera.fit.order import batches, order
from chimera.fit.settings import Settings
from chimera.stack import Stack, each

_STEPS = 20


def agreement(
    members: list[nn.Module], data: Data, settings: Settings, rates: Tensor
) -> tuple[float, int]:
    """The worst difference between a stack of ``members`` and a loop over them, and the steps.

    Both take the same first steps of the first epoch, with the same draws. The difference is of
    a parameter or buffer, relative to its largest value, or to the steps times the learning rate
    where that is more (a parameter whose gradient is rounding noise holds nothing else); infinite
    where one is finite alone.

    Args:
        members: plain modules, which stay as they are.
        data: on their device.
        settings: of these members.
        rates: the members' learning rates, float64 [members].
    """
    data = data.to(data.device, torch.float64)
    stack = Stack([module.double() for module in members], seed=settings.seed).train()
    alone = [stack[position] for position in range(len(stack))]
    optimizer = settings.optimizer(stack, lr=rates)
    step = train_step(stack, settings.loss, optimizer, clip=settings.clip)
    taken = list(islice(_batches(stack, data, settings), _STEPS))
    for batch in taken:
        step(each(batch.x), each(batch.y))
    for position, module in enumerate(alone):
        own = of_member(optimizer, position, module)
        for number, batch in enumerate(taken):
            own.zero_grad()
            with randomness(seed=settings.seed, member=position, step=number):
                settings.loss(module(batch.x[position]), batch.y[position]).backward()
            clip_alone(module, settings.clip_of(position))
            own.step()
    errors = [
        difference(stack[position].state_dict(), module.state_dict(), way=len(taken) * float(rate))
        for position, (module, rate) in enumerate(zip(alone, rates, strict=True))
    ]
    return max(errors), len(taken)


def clip_alone(module: nn.Module, limit: float | None) -> None:
    """Clip the gradients of a module as a loop of one's own does."""
    if limit is not None:
        nn.utils.clip_grad_norm_(module.parameters(), limit)


def _batches(stack: Stack, data: Data, settings: Settings) -> Any:
    keys = member_keys(settings.seed, stack.members, data.device)
    return batches(data.train, order(keys, 0, len(data.train)), settings.batch_size)


def difference(one: dict[str, Tensor], other: dict[str, Tensor], way: float = 0.0) -> float:
    """The worst difference of two state dicts, each tensor's relative to its largest value.

    Or relative to ``way``, where that is more.
    """
    worst = 0.0
    for name, expected in other.items():
        came = one[name].double()
        expected = expected.double()
        same = came.isfinite() == expected.isfinite()
        if not same.all():
            return float("inf")
        gap = (came - expected).nan_to_num(0.0, 0.0, 0.0).abs()
        if gap.numel():
            scale = expected.nan_to_num(0.0, 0.0, 0.0).abs().max().clamp(min=max(way, 1e-300))
            worst = max(worst, float(gap.max() / scale))
    return worst
