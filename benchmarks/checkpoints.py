"""What writing a checkpoint every 2 s costs a run of 256 digit MLPs.

    python benchmarks/checkpoints.py [--members 256] [--seconds 40]

Two runs, with and without a run directory, each in a process of its own, take turns of about a
second of epochs: one computes while the other waits, and which goes first alternates, so that a
machine whose speed drifts is the same for both. A checkpoint falls into the first epoch of a turn,
and a turn ends when its writing has ended, so that each run pays for what it does. Two turns make
a period, which holds one checkpoint. The ratio is of the sums over all periods; its interval has
95% of 10,000 draws of as many periods, with replacement. Compilation and the first period are left
out. What a directory costs once (to begin, the last checkpoint, the end) is measured by runs of one
epoch in turn. All runs have the settings of ``chimera fit`` (OMP_WAIT_POLICY=passive), and both
must end with the same figures.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from timing import hardware

import chimera as ch
from chimera.fit import MLP

MANY, SHORT = 100_000, 9
"""Epochs of a run that is stopped, and runs of one epoch on each side."""


class Enough(Exception):
    """The epoch's time is known."""


def train(members: int, epochs: int, **more: Any) -> Any:
    """A run."""
    nets = ch.instances(MLP, members, 64, 10, hidden=32, seed=0)
    return ch.fit(nets, ch.digits(), epochs=epochs, lr=ch.LogUniform(1e-4, 1e-2), **more)


def epoch_seconds(members: int) -> float:
    """The time of an epoch, once compiled where that pays."""
    ends: list[float] = []

    def ended(_: Any) -> None:
        ends.append(time.perf_counter())
        if len(ends) == 21:
            raise Enough

    with suppress(Enough):
        train(members, MANY, progress=ended)
    return (ends[-1] - ends[10]) / 10


def turns(epochs: int, every: int) -> list[int]:
    """The epochs that end a turn: of each period the one before its checkpoint, and the middle."""
    half = -(-every // 2)
    ends = list(range(every - 1, epochs, every))
    return sorted({*ends, *(end + half for end in ends if end + half < epochs), epochs})


def take_turns(members: int, epochs: int, every: int, folder: str) -> None:
    """A run that waits for its turns, and tells how long each took."""
    ends = turns(epochs, every)
    start = (0.0, 0.0)

    def begin() -> None:
        nonlocal start
        sys.stdin.readline()
        start = (time.perf_counter(), time.process_time())

    def ended(record: Any) -> None:
        if record["epoch"] not in ends:
            return
        computed = time.perf_counter()
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
        now, used = time.perf_counter(), time.process_time()
        print(json.dumps([now - start[0], now - computed, used - start[1]]), flush=True)
        begin()

    begin()
    more: dict[str, Any] = {"out": f"{folder}/run", "checkpoint_every": every} if folder else {}
    result = train(members, epochs, progress=ended, **more)
    print(json.dumps([row["test_loss"] for row in result.table]), flush=True)


def once(members: int, folder: str) -> list[float]:
    """The seconds of runs of one epoch: each with a directory less the one without beside it."""
    more = []
    for number in range(SHORT):
        seconds = {}
        for written in (number % 2 == 0, number % 2 == 1):
            out = f"{folder}/{number}" if written else None
            seconds[written] = train(members, 1, out=out).seconds
        more.append(seconds[True] - seconds[False])
    return more


class Child:
    """A run in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_WAIT_POLICY": "passive"},
            text=True,
        )

    def go(self) -> Any:
        """Let it have its turn; what it says at the end of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def measured(members: int, seconds: float) -> dict[str, Any]:
    """Two runs in turn: seconds, seconds of waiting and of processors, for each turn of each."""
    epoch = Child("--members", members, "--part", "epoch").go()
    every = max(4, round(2 / epoch))
    epochs = every * max(4, round(seconds / epoch / every)) + every - 1
    same = ("--members", members, "--epochs", epochs, "--every", every)
    found: dict[str, Any] = {"every": every, "epochs": epochs, "plain": [], "written": []}
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "plain": Child(*same, "--part", "turns"),
            "written": Child(*same, "--part", "turns", "--folder", folder),
        }
        for number in range(len(turns(epochs, every))):
            for way in ("plain", "written") if number % 2 else ("written", "plain"):
                found[way].append(runs[way].go())
        if runs["plain"].go() != runs["written"].go():
            raise RuntimeError("the checkpoints changed what was computed")
        found["once"] = Child("--members", members, "--part", "once", "--folder", folder).go()
    return found


def periods(turns: Sequence[Sequence[float]], what: int) -> list[float]:
    """The sums over the two turns of each period, the first period and what follows the last out.

    The first turn ends before the first checkpoint.
    """
    whole = [turn[what] for turn in turns[1:]]
    return [whole[i] + whole[i + 1] for i in range(2, len(whole) - 1, 2)]


def interval(plain: Sequence[float], written: Sequence[float]) -> tuple[float, float]:
    """95% of the ratios of sums over periods drawn with replacement."""
    lot, count = random.Random(0), len(plain)
    ratios = []
    for _ in range(10_000):
        drawn = lot.choices(range(count), k=count)
        ratios.append(sum(written[i] for i in drawn) / sum(plain[i] for i in drawn))
    ratios.sort()
    return ratios[250], ratios[-251]


def told(members: int, found: dict[str, Any]) -> None:
    """Print the table."""
    plain, written = (periods(found[way], 0) for way in ("plain", "written"))
    waited = sum(periods(found["written"], 1))
    ratio = sum(written) / sum(plain) - 1
    low, high = (bound - 1 for bound in interval(plain, written))
    cores = [sum(periods(found[way], 2)) for way in ("plain", "written")]
    fixed = statistics.median(found["once"])
    epochs = found["every"] * len(plain)
    print(
        f"{members} digit MLPs 64->32->10, batch 32; {epochs} epochs of each run, of which "
        f"{found['every']} ({sum(written) / len(written):.2f} s) between two checkpoints\n"
    )
    print(f"{'':34}{'without':>10}{'with':>10}{'more':>9}")
    each = [1000 * sum(way) / epochs for way in (plain, written)]
    print(f"{'ms an epoch':34}{each[0]:10.2f}{each[1]:10.2f}{100 * ratio:8.2f}%")
    used = [1000 * way / epochs for way in cores]
    print(
        f"{'ms of the processors an epoch':34}{used[0]:10.2f}{used[1]:10.2f}"
        f"{100 * (used[1] / used[0] - 1):8.2f}%"
    )
    print(f"\n95% of the draws: {100 * low:.2f}% to {100 * high:.2f}%, of {len(plain)} periods")
    print(f"waiting for a checkpoint at the end of a turn, in the above: {1000 * waited:.0f} ms")
    print(
        f"once a run (to begin, the last checkpoint, the end): {1000 * fixed:.0f} ms, median of "
        f"{len(found['once'])}\nmore time for a run of a minute: {100 * (ratio + fixed / 60):.2f}%"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=40, help="of each of the two runs")
    parser.add_argument("--part", choices=("epoch", "turns", "once"), help=argparse.SUPPRESS)
    for name in ("epochs", "every"):
        parser.add_argument(f"--{name}", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "epoch":
        print(json.dumps(epoch_seconds(given.members)), flush=True)
    elif given.part == "turns":
        take_turns(given.members, given.epochs, given.every, given.folder)
    elif given.part == "once":
        print(json.dumps(once(given.members, given.folder)), flush=True)
    else:
        print(hardware(torch.device("cpu")))
        told(given.members, measured(given.members, given.seconds))


if __name__ == "__main__":
    main()
