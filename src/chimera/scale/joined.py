"""Joining the processes that a launcher started into one process group, and leaving it in peace.

torchrun, and torch's elastic launcher behind ``chimera fit --devices``, say in environment
variables who is who. Everything in the store stands under the count of restarts: what an earlier
start left there is never taken for an answer.
"""

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from chimera.scale.settle import settle_at_exit

Store = Any
"""A store of ``torch.distributed``, of which torch exports no type."""

_SECONDS = 600.0


def is_rank() -> bool:
    """Whether a launcher started this process as one of several."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and int(os.environ["WORLD_SIZE"]) > 1


def own_rank() -> int:
    """The rank that the launcher gave this process; 0 where there is none."""
    return int(os.environ["RANK"]) if is_rank() else 0


def local_rank() -> int:
    """Which of the processes of its machine this is; of all, where nothing says that."""
    told = os.environ.get("LOCAL_RANK")
    if told is not None:
        return int(told)
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def ranks_here() -> int:
    """How many of the processes are on this machine; 1 for one that is no rank."""
    told = os.environ.get("LOCAL_WORLD_SIZE")
    if told is not None:
        return int(told)
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def restarts() -> int:
    """How often the launcher has started these processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def seconds_to_wait() -> float:
    """How long a rank waits for others; ``CHIMERA_RANKS_TIMEOUT`` says otherwise.

    Raises ValueError where that is no number above 0.
    """
    text = os.environ.get("CHIMERA_RANKS_TIMEOUT")
    if text is None:
        return _SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise ValueError(f"CHIMERA_RANKS_TIMEOUT: expected seconds above 0, got {text!r}")
    return seconds


def join(gpus: bool = False) -> bool:
    """Join the process group that the launcher's variables describe; whether this is a rank.

    One that is initialized already is taken as it is; one that is made here is left when Python
    ends.

    Args:
        gpus: whether the group speaks for CUDA devices, too (NCCL), where there are any; each rank
            then gets the one of its number on the machine. gloo speaks for the CPU.

    Raises:
        PeerError: a rank did not come in time; it is named.
    """
    if not dist.is_available():
        return False
    if not dist.is_initialized():
        if not is_rank():
            return False
        _join(gpus and torch.cuda.is_available())
        atexit.register(_leave)
    settle_at_exit()
    return True


def _join(gpus: bool) -> None:
    from chimera.scale.meeting import Meeting

    rank, size = own_rank(), int(os.environ["WORLD_SIZE"])
    seconds = timedelta(seconds=seconds_to_wait())
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size,
        is_master=hosted and rank == 0,
        timeout=seconds,
        wait_for_workers=False,
    )
    own = prefixed(f"chimera/{restarts()}", store)
    Meeting("joining", own, rank, size).meet()
    if gpus:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=seconds)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def prefixed(name: str, store: Store) -> Store:
    """The same store, in which every key begins with a name."""
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


def default_store() -> Store:
    """The store of the process group, however the group was made."""
    # torch has no public name for it; tests/scale/test_joined.py tells when this one goes.
    return dist.distributed_c10d._get_default_store()
