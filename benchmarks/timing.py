"""Timing that can be trusted on a busy machine: candidates in turn, in one process; medians."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def medians(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int = 15, seconds: float = 0.2
) -> dict[str, float]:
    """The median time of one call of each candidate, in seconds.

    A candidate that hands its work to a queue has an attribute ``finish`` that waits for it. Each
    candidate is warmed up; then, round after round, each runs in turn for about ``seconds``
    (one call at least), so that what else the machine does falls on all of them.
    """
    calls = {name: _calls_in(candidate, seconds) for name, candidate in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            times[name].append(_time(candidate, calls[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def _calls_in(candidate: Callable[[], object], seconds: float) -> int:
    for _ in range(3):
        candidate()
    return max(1, int(seconds / _time(candidate, 2)))


def _time(candidate: Callable[[], object], calls: int) -> float:
    _wait()
    start = time.perf_counter()
    for _ in range(calls):
        candidate()
    getattr(candidate, "finish", _wait)()
    return (time.perf_counter() - start) / calls


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def hardware(device: torch.device) -> str:
    """The machine in a line: processor or GPU, cores, threads, versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return (
        f"{name}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads; "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
