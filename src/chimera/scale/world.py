"""The process group that a network is spread over: its ranks, and where this one computes."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def joined() -> bool:
    """Whether this process is one of a group; joins it where ``torchrun`` started the process."""
    if not dist.is_available():
        return False
    if not dist.is_initialized():
        if not dist.is_torchelastic_launched():
            return False
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        dist.init_process_group()
        atexit.register(_leave)
    _settle_at_exit()
    return True


@cache
def _settle_at_exit() -> None:
    """Let gloo's threads end their last work before Python ends.

    They drop the tensors of a collective under the interpreter's lock, after it has returned; one
    that still waits for the lock when Python ends aborts the process (torch 2.13), and a network
    that is spread keeps those threads alive after its group is destroyed.
    """
    atexit.register(time.sleep, 0.1)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def local_rank() -> int:
    """The rank of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", dist.get_rank()))


def ranks_here() -> int:
    """The number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))


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
