"""What one training step of one member costs, predicted from one look at its forward.

Arithmetic counts as torch's own counter has it (``torch.utils.flop_counter``). A number that a
layer writes counts as ten operations, and an optimizer as ten passes over each parameter: an
estimate, which decides how even the shares are and nothing else.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_A_NUMBER = 10
_PASSES = 10
_BACKWARD = 3
"""Forward and backward together cost about three forwards."""


def step_cost(member: nn.Module, x: Tensor) -> float:
    """The cost of a training step of ``member`` on a batch ``x``, in operations.

    Args:
        member: a copy that nobody else needs; its buffers may change.
        x: one batch of its input.
    """
    numbers = 0

    def count(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal numbers
        numbers += sum(leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

    for module in member.modules():
        module.register_forward_hook(count)
    with torch.no_grad(), torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
        member(x)
    parameters = sum(p.numel() for p in member.parameters())
    forward = counter.get_total_flops() + _A_NUMBER * numbers
    return float(_BACKWARD * forward + _PASSES * _A_NUMBER * parameters) or 1.0
