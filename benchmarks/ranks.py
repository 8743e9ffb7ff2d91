"""Two ranks of one run against two unrelated processes with half of the members each.

    python benchmarks/ranks.py [--members 256] [--epochs 25] [--rounds 3]

Every process has one thread. The ways are run in turn, round after round; a figure is the median of
the rounds, in member-steps a second from the end of the first epoch to the end of the last. The
start of Python and the building of the networks are left out on all sides; evaluation, the figures'
collective and Python's own work are in. All ways must give the same figures of every member.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import hardware

import chimera as ch
from chimera.fit import MLP
from chimera.scale.joined import join


def train(members: int, first: int, count: int, epochs: int, out: Path) -> None:
    """Train some of the members here, and write down how fast, and what became of them."""
    torch.set_num_threads(1)
    join()
    data = ch.digits()
    nets = ch.instances(MLP, members, 64, 10, hidden=32, seed=0)
    rates = torch.logspace(-4, -2, members, dtype=torch.float64)
    stack = ch.Stack(nets[first : first + count], seed=0)
    stack.members = tuple(range(first, first + count))
    ends: list[float] = []

    def ended(_: Any) -> None:
        ends.append(time.perf_counter())

    result = ch.fit(
        stack, data, epochs=epochs, lr=rates[first : first + count], progress=ended, seed=0
    )
    if not ends:  # rank 0 tells
        return
    steps = -(-len(data.train) // 32) * (epochs - 1)
    said = {
        "rate": count * steps / (ends[-1] - ends[0]),
        "losses": [row["test_loss"] for row in result.table],
    }
    out.write_text(json.dumps(said))


def started(command: list[str]) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def run(way: str, members: int, epochs: int, folder: Path) -> tuple[float, list[float]]:
    """Member-steps a second of one way, and every member's test loss."""
    half = members // 2
    parts = {
        "two ranks": [(0, members)],
        "two processes": [(0, half), (half, members - half)],
        "one process": [(0, members)],
    }[way]
    python = [sys.executable]
    if way == "two ranks":
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    files = [folder / f"{first}.json" for first, _ in parts]
    same = ["--members", str(members), "--epochs", str(epochs)]
    processes = [
        started([*python, __file__, *same, "--part", str(first), str(count), str(file)])
        for (first, count), file in zip(parts, files, strict=True)
    ]
    if any(process.wait() for process in processes):
        raise RuntimeError(f"{way} failed")
    said = [json.loads(file.read_text()) for file in files]
    return sum(one["rate"] for one in said), [loss for one in said for loss in one["losses"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", nargs=3)
    given = parser.parse_args()
    if given.part:
        first, count, file = given.part
        train(given.members, int(first), int(count), given.epochs, Path(file))
        return
    ways = ("two ranks", "two processes", "one process")
    rates: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for way in ways:
                rate, losses[way] = run(way, given.members, given.epochs, Path(folder))
                rates[way].append(rate)
    torch.set_num_threads(1)
    print(hardware(torch.device("cpu")))
    print(f"{given.members} digit MLPs 64->32->10, batch 32, {given.epochs} epochs, ", end="")
    print(f"one thread a process; medians of {given.rounds} rounds\n")
    middle = {way: statistics.median(found) for way, found in rates.items()}
    print(f"{'':16}{'member-steps/s':>15}{'of two processes':>18}{'apart at most':>15}")
    for way in ways:
        apart = max(
            abs(a - b) / abs(b) for a, b in zip(losses[way], losses["two processes"], strict=True)
        )
        share = statistics.median(
            a / b for a, b in zip(rates[way], rates["two processes"], strict=True)
        )
        print(f"{way:16}{middle[way]:15,.0f}{share:18.3f}{apart:15.0e}")
        if apart > 1e-3:
            raise RuntimeError(f"{way} computed something else")


if __name__ == "__main__":
    main()
