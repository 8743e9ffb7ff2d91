"""Joining the processes that a launcher started into one process group.

torchrun, and torch's elastic launcher behind ``chimera fit --devices``, say in environment
variables who is who. Everything in the store stands under the count of restarts: what an earlier
start left there is never taken for an answer.
"""

import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist

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
    """Which of the processes of its machine this is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


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


def join() -> bool:
    """Join the process group that the launcher's variables describe; whether this is a rank.

    One that is initialized already is taken as it is. The group is gloo's, and with CUDA devices
    NCCL's too.

    Raises:
        PeerError: a rank did not come in time; it is named.
    """
    if not is_rank():
        return False
    if dist.is_initialized():
        return True
    from chimera.scale.ranks import Ranks

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
    Ranks("joining", own, rank, size).meet()
    dist.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=seconds)
    return True


def prefixed(name: str, store: Store) -> Store:
    """The same store, in which every key begins with a name."""
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


def default_store() -> Store:
    """The store of the process group, however the group was made."""
    # torch has no public name for it; tests/scale/test_joined.py tells when this one goes.
    return dist.distributed_c10d._get_default_store()
