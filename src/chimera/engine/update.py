"""The step of a ``torch.optim`` optimizer by torch's fused kernel, where that computes the same.

On a CPU torch steps parameter by parameter, some ten operations each, unless ``fused=True`` was
asked for. Contract: the groups read afterwards as before; what the kernel cannot do (it reads
memory in order, whatever the strides say) is left to the optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

KNOWN = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
# torch 2.13's fused SGD is wrong in narrower ones.
DTYPES = (torch.float32, torch.float64)


@contextmanager
def fused(optimizer: torch.optim.Optimizer) -> Iterator[bool]:
    """Let steps inside be fused where that is the same; gives whether they are, for all groups."""
    groups = optimizer.param_groups
    chosen = [group for group in groups if _serves(optimizer, group)]
    for group in chosen:
        group["fused"] = True
    try:
        yield len(chosen) == len(groups)
    finally:
        for group in chosen:
            group["fused"] = None


def _serves(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    """Whether torch's fused kernel takes a group's step, which nobody chose the form of."""
    if type(optimizer) not in KNOWN or group["fused"] is not None or group["foreach"] is not None:
        return False
    if group["differentiable"] or group.get("capturable"):
        return False
    if not all(isinstance(n, float | int) for n in (group["lr"], *group.get("betas", ()))):
        return False
    moved = [p for p in group["params"] if p.grad is not None]
    if not moved or (dtype := moved[0].dtype) not in DTYPES:
        return False
    states = [optimizer.state.get(p, {}) for p in moved]
    if len({state.get("momentum_buffer") is None for state in states}) > 1:
        return False
    numbers = [*moved, *(p.grad for p in moved)]
    steps: list[Any] = []
    for state in states:
        for name, value in state.items():
            if value is not None:
                (steps if name == "step" else numbers).append(value)
    return _plain(numbers, dtype) and _plain(steps, torch.float32)


_KIND = attrgetter("dtype", "layout", "is_cpu")


def _plain(tensors: Sequence[Any], dtype: torch.dtype) -> bool:
    """Whether the numbers of all lie in order in a CPU's memory."""
    return (
        all(isinstance(tensor, Tensor) for tensor in tensors)
        and set(map(_KIND, tensors)) <= {(dtype, torch.strided, True)}
        and all(map(Tensor.is_contiguous, tensors))
    )
