"""Outputs of a replica that a loss leaves out.

torch's DDP waits for a gradient of every parameter that the outputs come from. An output that the
loss does not use gives none, and the next step would be an error. Here such an output gets zeros,
so that all parameters are counted, and parameters that nothing else reached are then put back as
they were: without a gradient, as on one device.

``queue_callback`` of torch's autograd engine, which DDP itself uses, is called here alone; a test
tells when torch changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chimera.paths.nest import flatten


class AllUsed(nn.Module):
    """A replica whose outputs all give a gradient in backward.

    Args:
        net: the network.
        apart: whether the ranks' losses may differ in what they use.
    """

    def __init__(self, net: nn.Module, *, apart: bool) -> None:
        super().__init__()
        self.net, self._apart = net, apart

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives."""
        leaves, shape = flatten(self.net(*args, **kwargs), objects=True)
        places = [i for i, t in enumerate(leaves) if isinstance(t, Tensor) and t.requires_grad]
        if not places:
            return shape.rebuild(leaves)
        made = _AllUsed.apply(self._apart, *(leaves[i] for i in places))  # type: ignore[no-untyped-call]
        for i, tensor in zip(places, made, strict=True):
            leaves[i] = tensor
        return shape.rebuild(leaves)


class _AllUsed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, apart: bool, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.apart = apart
        ctx.like = [(output.shape, output.dtype, output.device) for output in outputs]
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        used = [grad is not None for grad in grads]
        if ctx.apart:
            found = torch.tensor(used, dtype=torch.int32, device=ctx.like[0][2])
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
            used = [bool(one) for one in found.tolist()]
        if not all(used):
            _afterwards(_put_back(_left_out(ctx.next_functions, used)))
        full = [
            torch.zeros(shape, dtype=dtype, device=device) if grad is None else grad
            for grad, (shape, dtype, device) in zip(grads, ctx.like, strict=True)
        ]
        return None, *full


def _left_out(ends: Any, used: list[bool]) -> list[Tensor]:
    """The parameters that only outputs which are not used come from."""
    nodes = [node for node, _ in ends]
    reached = _parameters([node for node, one in zip(nodes, used, strict=True) if one])
    others = _parameters([node for node, one in zip(nodes, used, strict=True) if not one])
    return [parameter for key, parameter in others.items() if key not in reached]


def _parameters(nodes: list[Any]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    seen, left = set(), list(nodes)
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        parameter = getattr(node, "variable", None)
        if isinstance(parameter, Tensor):
            found[id(parameter)] = parameter
        left.extend(before for before, _ in node.next_functions)
    return found


def _put_back(parameters: list[Tensor]) -> Callable[[], None]:
    blank = [parameter for parameter in parameters if parameter.grad is None]

    def put_back() -> None:
        for parameter in blank:
            parameter.grad = None

    return put_back


def _afterwards(action: Callable[[], None]) -> None:
    """Do something when DDP has put all gradients together, at the end of this backward."""
    engine: Any = torch.autograd.Variable._execution_engine
    # DDP asks for its turn while gradients come; what is asked for in a turn comes after all.
    engine.queue_callback(lambda: engine.queue_callback(action))
