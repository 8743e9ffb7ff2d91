"""Shards: every rank holds a part of each parameter, and computes its rows (torch's FSDP2).

A penalty on the parts is a ``DTensor``, and so is then the gradient of the whole loss, which meets
plain tensors on its way to the outputs and to parameters that a call has left gathered. Every rank
holds the same loss, which ``implicit_replication`` tells torch; what gets there is plain again.
Where ranks have losses of their own that is not so, and such a gradient is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication

from chimera.paths.nest import flatten
from chimera.paths.walk import join
from chimera.scale.blocks import repeated_blocks
from chimera.scale.rows import with_gradient
from chimera.scale.spread import Spread
from chimera.scale.world import copy_from_first, on_first
from chimera.stack.contents import unregistered


class Shards:
    """Runs a network by FSDP2, one call of ``fully_shard`` a repeated block, then the root."""

    in_parts = True

    def __init__(self, net: nn.Module, device: torch.device, spread: Spread, reason: str) -> None:
        _check(net)
        _check_dtypes(net, repeated_blocks(net))
        copy_from_first([*net.parameters(), *net.buffers()], device)
        for parameter in net.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP2 takes no other
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        blocks = repeated_blocks(net)
        for block in blocks.values():
            fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)
        self.reason = f"{reason}\nsharded: {_listed(list(blocks))}"
        self._net, self._spread = net, spread
        self._mixing: AbstractContextManager[None] | None = None
        self._hooked: dict[int, Tensor] = {}

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = self._spread.run(lambda a, k: self._net(*a, **k), args, kwargs)
        if not torch.is_grad_enabled():
            return output
        self._let_mix()
        plain = _plain_alone if self._spread.apart else _plain
        leaves, shape = flatten(output, objects=True)
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaves[i] = with_gradient(leaf, plain)
        return shape.rebuild(leaves)

    def _let_mix(self) -> None:
        """Let backward in this thread mix plain tensors and parts, while the network lives."""
        self._mixing = None  # what ends here forbids it
        self._mixing = implicit_replication()
        self._mixing.__enter__()
        for parameter in self._net.parameters():
            gathered = not isinstance(parameter, DTensor) and parameter.requires_grad
            if gathered and id(parameter) not in self._hooked:
                self._hooked[id(parameter)] = parameter
                parameter.register_hook(_plain)

    def whole(self, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        # The clone waits for what is gathered and is a plain tensor.
        return value.full_tensor().detach().clone()

    def taken(self, state: dict[str, Any]) -> dict[str, Any]:
        own = {name: p for name, p in self._net.state_dict().items() if isinstance(p, DTensor)}
        taken = type(state)(state)
        for name, value in state.items():
            part = own.get(name)
            if part is None or not isinstance(value, Tensor) or isinstance(value, DTensor):
                continue
            if value.shape == part.shape:  # torch tells of another
                there = value.detach().to(part.device, part.dtype)
                mesh, places = part.device_mesh, part.placements
                taken[name] = distribute_tensor(there, mesh, places, src_data_rank=None)
        return taken

    def write(self, action: Callable[[], None]) -> None:
        on_first(action)


def _plain_alone(grad: Tensor) -> Tensor:
    """A plain gradient, where each rank has a loss of its own."""
    if isinstance(grad, DTensor):
        raise ValueError(
            "distribute: a loss of inputs='each' holds a penalty on a sharded network's "
            "parameters, of which each rank has a part; add it of p.full_tensor() for each p"
        )
    return grad


def _plain(grad: Tensor) -> Tensor:
    return grad.full_tensor() if isinstance(grad, DTensor) else grad


def _check(net: nn.Module) -> None:
    """Raise ValueError for what FSDP2 cannot cut, or would leave behind."""
    for slot in unregistered(net):
        raise ValueError(
            f"distribute: {slot.path!r} is a tensor in a plain attribute, which a sharded network "
            "leaves behind; make it a buffer (ch.Constant, nn.Buffer, or ch.build, which adopts it)"
        )
    for path, module in net.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ValueError(
                f"distribute: {path!r} has sparse gradients, which torch's fully_shard cannot cut; "
                "make it with sparse=False, or use mode='replicate'"
            )
    for name, parameter in net.named_parameters():
        if not parameter.dim():
            raise ValueError(
                f"distribute: the parameter {name!r} is a scalar, which torch's fully_shard cannot "
                "cut; give it the shape (1,), or use mode='replicate'"
            )


def _check_dtypes(net: nn.Module, blocks: Mapping[str, nn.Module]) -> None:
    """Raise ValueError where parameters that FSDP2 gathers together differ in dtype."""
    inside = {id(p) for block in blocks.values() for p in block.parameters()}
    rest = [(name, p) for name, p in net.named_parameters() if id(p) not in inside]
    parts = [[(join(path, n), p) for n, p in b.named_parameters()] for path, b in blocks.items()]
    for part in (*parts, rest):
        first: dict[torch.dtype, str] = {}
        for name, parameter in part:
            first.setdefault(parameter.dtype, name)
        if len(first) > 1:
            said = " and ".join(f"{name!r} is {str(d)[6:]}" for d, name in list(first.items())[:2])
            raise ValueError(
                f"distribute: {said}, and torch's fully_shard gathers parameters of one dtype "
                "together; give them one, or use mode='replicate'"
            )


def _listed(paths: list[str]) -> str:
    if not paths:
        return "the whole network at once, which has no repeated blocks"
    more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
    return f"{', '.join(paths[:4])}{more}, then the rest"
