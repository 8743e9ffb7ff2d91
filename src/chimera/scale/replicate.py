"""Replicas: every rank holds the whole network, and computes its rows (torch's DDP)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from chimera.scale.spread import Spread
from chimera.scale.used import AllUsed
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
                AllUsed(self._net, apart=self._spread.apart),
                device_ids=[self._device.index] if self._device.type == "cuda" else None,
                **_LEFT_ALONE,
                find_unused_parameters=True,  # a call may take another way than the first
            )
            self._trained = trained
        with warnings.catch_warnings():  # that none was unused, which a later call may change
            warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
            return self._engine(*args, **kwargs)

    def whole(self, value: Any) -> Any:
        return value

    def taken(self, state: dict[str, Any]) -> dict[str, Any]:
        return state

    def write(self, action: Callable[[], None]) -> None:
        on_first(action)
