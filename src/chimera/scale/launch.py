"""Starting the ranks of a command on this machine, through torch's own elastic launcher."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

import torch


class RanksFailed(RuntimeError):
    """The launched ranks ended with errors, of which they spoke themselves.

    Attributes:
        code: the exit code that tells it.
        killed: what to say of ranks that a signal killed; empty where none was.
    """

    def __init__(self, code: int, killed: str) -> None:
        super().__init__(killed or f"the ranks ended with exit code {code}")
        self.code, self.killed = code, killed


def device_count() -> int:
    """How many devices this machine has: accelerators, or else the cores this process may use."""
    if torch.accelerator.is_available():
        return int(torch.accelerator.device_count())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def launch(ranks: int, arguments: Sequence[str]) -> int:
    """Run ``python <arguments>`` as so many ranks of this machine; the exit code.

    Each rank gets its part of the cores as threads, unless ``OMP_NUM_THREADS`` says otherwise.

    Args:
        ranks: how many.
        arguments: of Python.

    Raises:
        RanksFailed: a rank ended with an error.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    logging.disable(logging.ERROR)  # the ranks speak for themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as failed:
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        raise RanksFailed(_code(list(codes.values())), _killed(codes)) from failed
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def _code(codes: Sequence[int]) -> int:
    """What tells most: a mistake, a directory in use or a stop before a mere failure."""
    told = [code for code in codes if code > 1]
    return min(told, default=1)


def _killed(codes: dict[int, int]) -> str:
    killed = [
        f"rank {rank} was ended by {signal.Signals(-code).name}"
        for rank, code in sorted(codes.items())
        if code < 0
    ]
    return "; ".join(killed)
