"""Parameters of a replica that a call or a loss leaves out.

torch's DDP takes parameters that the outputs do not come from as done when backward begins, and a
penalty that then gives them a gradient is an error. Here the outputs come from all parameters, and
give nothing to those that the call left out. An output that the loss does not use gives nothing
either. DDP waits until all have been asked, penalties too, and leaves without a gradient what got
none on any rank, as on one device. A ``torch.autograd.Function`` in a part of the network that the
loss does not use makes zeros of nothing: these are taken away again.

``queue_callback`` of torch's autograd engine, which DDP itself uses, is called here alone; a test
tells when torch changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from chimera.paths.nest import flatten


class AllUsed(nn.Module):
    """A replica whose outputs come from all of its parameters.

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
        given = [
            *(leaves[i] for i in places),
            *(p for p in self.net.parameters() if p.requires_grad),
        ]
        made = _AllUsed.apply(self._apart, len(places), *given)  # type: ignore[no-untyped-call]
        for i, tensor in zip(places, made, strict=True):
            leaves[i] = tensor
        return shape.rebuild(leaves)


class _AllUsed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, apart: bool, outputs: int, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.apart, ctx.device, ctx.parameters = apart, given[0].device, len(given) - outputs
        return tuple(output.view_as(output) for output in given[:outputs])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        used = [grad is not None for grad in grads]
        if ctx.apart:
            found = torch.tensor(used, dtype=torch.int32, device=ctx.device)
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
            used = [bool(one) for one in found.tolist()]
        if not all(used):
            left_out = _left_out(ctx.next_functions[: len(used)], used)
            if left_out:
                _afterwards(_put_back(left_out))
        return None, None, *grads, *[None] * ctx.parameters


def _left_out(ends: Any, used: list[bool]) -> list[Tensor]:
    """The parameters that only outputs which are not used come from, by a Function of someone's."""
    nodes = [node for node, _ in ends]
    others, makes_zeros = _parameters([n for n, one in zip(nodes, used, strict=True) if not one])
    if not makes_zeros:
        return []
    reached, _ = _parameters([node for node, one in zip(nodes, used, strict=True) if one])
    return [parameter for key, parameter in others.items() if key not in reached]


def _parameters(nodes: list[Any]) -> tuple[dict[int, Tensor], bool]:
    """The parameters that nodes lead to, by id, and whether by an ``autograd.Function``."""
    makes_zeros = False
    found: dict[int, Tensor] = {}
    seen, left = set(), list(nodes)
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        makes_zeros |= isinstance(node, BackwardCFunction)
        parameter = getattr(node, "variable", None)
        if isinstance(parameter, Tensor):
            found[id(parameter)] = parameter
        left.extend(before for before, _ in node.next_functions)
    return found, makes_zeros


def _put_back(parameters: list[Tensor]) -> Callable[[], None]:
    blank = [parameter for parameter in parameters if parameter.grad is None]

    def put_back() -> None:
        for parameter in blank:
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None

    return put_back


def _afterwards(action: Callable[[], None]) -> None:
    """Do something when DDP has put all gradients together, at the end of this backward."""
    engine: Any = torch.autograd.Variable._execution_engine
    # DDP asks for its turn while gradients come; what is asked for in a turn comes after all.
    engine.queue_callback(lambda: engine.queue_callback(action))
