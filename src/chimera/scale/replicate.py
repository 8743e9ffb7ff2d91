"""Replicas: every rank holds the whole network, and computes its rows (torch's DDP)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from chimera.draws.seeds import forked
from chimera.paths.nest import flatten
from chimera.scale.record import put_back, run_alone
from chimera.scale.spread import Spread
from chimera.scale.world import copy_from_first, on_first

# torch 2.13 renames the option; what each rank's buffers hold is the same by what is checked.
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_SYNCS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"
_LEFT_ALONE: dict[str, Any] = {_SYNCS: False}


class Replicas:
    """Runs a network by DDP, made anew when other parameters are trained."""

    in_parts = False

    def __init__(self, net: nn.Module, device: torch.device, spread: Spread, reason: str) -> None:
        self.reason = reason
        net.to(device)
        copy_from_first([*net.parameters(), *net.buffers()], device)
        self._net, self._device, self._spread = net, device, spread
        self._engine: DistributedDataParallel | None = None
        self._trained: tuple[int, ...] = ()

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._spread.run(self._call, args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        trained = tuple(id(p) for p in self._net.parameters() if p.requires_grad)
        if not trained or not torch.is_grad_enabled():
            return self._net(*args, **kwargs)
        if trained != self._trained or self._engine is None:
            self._engine = None  # its hooks go before others come
            self._engine = DistributedDataParallel(
                self._net,
                device_ids=[self._device.index] if self._device.type == "cuda" else None,
                **_LEFT_ALONE,
                find_unused_parameters=_leaves_some_out(self._net, args, kwargs),
            )
            self._trained = trained
        return self._engine(*args, **kwargs)

    def whole(self, value: Any) -> Any:
        return value

    def taken(self, state: dict[str, Any]) -> dict[str, Any]:
        return state

    def write(self, action: Callable[[], None]) -> None:
        on_first(action)


def _leaves_some_out(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether some trained parameter has no part in the outputs, on any rank."""
    with torch.enable_grad(), forked(0), put_back(net):
        outputs = flatten(run_alone(net, args, kwargs), objects=True)[0]
        ends = [t for t in outputs if isinstance(t, Tensor) and t.requires_grad]
        trained = [p for p in net.parameters() if p.requires_grad]
        grads = (
            torch.autograd.grad(
                ends, trained, [torch.ones_like(e) for e in ends], allow_unused=True
            )
            if ends
            else [None]
        )
    found = torch.tensor([any(grad is None for grad in grads)], dtype=torch.int32)
    found = found.to(trained[0].device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found.item())
