"""Starting the ranks of a command on this machine, through torch's own elastic launcher."""

import logging
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch

from chimera.scale.children import children, kill_children


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

    Each rank gets its part of the cores as threads, unless ``OMP_NUM_THREADS`` says otherwise. The
    first SIGTERM or Ctrl-C is handed on to the ranks, which end by themselves; the second ends
    them, and this process, at once.

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
    # The ranks speak for themselves, torch's C++ of a store that is gone in frames of its own.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.disable(logging.ERROR)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    there = children()
    try:
        with _second_signal_ends(there):
            elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as failed:
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        raise RanksFailed(_code(list(codes.values())), _killed(codes)) from failed
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    finally:
        kill_children(there)  # of ranks that ended well, or were waited for, none is left
    return 0


@contextmanager
def _second_signal_ends(there: Collection[int]) -> Iterator[None]:
    """Let the second SIGTERM or Ctrl-C inside end the ranks and this process, whoever waits.

    The launcher has handlers of its own and waits for the ranks in them, half a minute for one that
    is stopped; so the signals are counted beside it, by a thread that Python writes their numbers
    to. A signal reaches the main thread alone, so elsewhere there is nothing to count.

    Args:
        there: the children that are no ranks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    theirs, ours = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)

    def count() -> None:
        asked = 0
        while numbers := ours.recv(64):
            for number in numbers:
                asked += number in (signal.SIGTERM, signal.SIGINT)
                if asked == 2:
                    kill_children(there)
                    os._exit(128 + number)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()


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
