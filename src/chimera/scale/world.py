"""The process group that a network is spread over: its ranks, and where this one computes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chimera.scale.joined import local_rank


def own_device(net: nn.Module) -> torch.device:
    """Where this rank computes: a GPU if the group speaks for GPUs, else where ``net`` is."""
    if "nccl" in str(dist.get_backend_config()) and torch.cuda.is_available():
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    return next((t.device for t in (*net.parameters(), *net.buffers())), torch.device("cpu"))


def command(devices: int) -> str:
    """What to type so that ``devices`` processes run this program."""
    script = sys.argv[0] if sys.argv and sys.argv[0].endswith(".py") else "train.py"
    return f"torchrun --nproc-per-node {devices} {os.path.basename(script)}"


def tell_all(value: Any) -> list[Any]:
    """The value of every rank, in the order of ranks."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank(value: Any, rank: int) -> Any:
    """The value that ``rank`` has."""
    box = [value]
    dist.broadcast_object_list(box, src=rank)
    return box[0]


def on_first(action: Callable[[], None]) -> None:
    """Run ``action`` on rank 0 while the others wait; where it fails, every rank raises."""
    error: BaseException | None = None
    if dist.get_rank() == 0:
        try:
            action()
        except Exception as raised:  # noqa: BLE001 - raised below, on every rank
            error = raised
    said = from_rank(None if error is None else f"{type(error).__name__}: {error}", 0)
    if error is not None:
        raise error
    if said is not None:
        raise RuntimeError(f"rank 0 failed: {said}")


def copy_from_first(tensors: list[Tensor], device: torch.device) -> None:
    """Give the tensors of every rank the values that rank 0 has, bit by bit."""
    with torch.no_grad():
        for tensor in tensors:
            there = tensor.detach().to(device).contiguous()
            if there.numel():
                dist.broadcast(there.reshape(-1).view(torch.uint8), src=0)
            tensor.copy_(there)
