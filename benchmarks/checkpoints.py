"""What writing a checkpoint every 2 s costs a run of 256 digit MLPs.

    python benchmarks/checkpoints.py [--members 256] [--seconds 20] [--rounds 2]

Runs with and without a run directory take turns; a checkpoint is written every so many epochs as
take 2 s. A figure is the median time of an epoch, evaluation and checkpoints in. Both ways must end
with the same bits.
"""

import argparse
import itertools
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import hardware

import chimera as ch
from chimera.fit import MLP


def timed(nets: Any, epochs: int, **more: Any) -> tuple[list[float], list[float]]:
    """The seconds of every epoch but the first, and every member's final loss."""
    ends: list[float] = []
    result = ch.fit(
        nets,
        ch.digits(),
        epochs=epochs,
        lr=ch.LogUniform(1e-4, 1e-2),
        progress=lambda _: ends.append(time.perf_counter()),
        **more,
    )
    seconds = [b - a for a, b in itertools.pairwise(ends)]
    return seconds, [row["test_loss"] for row in result.table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    nets = ch.instances(MLP, given.members, 64, 10, hidden=32, seed=0)
    epoch = statistics.median(timed(nets, 5)[0])
    every = max(1, round(2 / epoch))
    epochs = every * math.ceil(given.seconds / epoch / every) + 1
    plain: list[float] = []
    written: list[float] = []
    for _ in range(given.rounds):
        seconds, without = timed(nets, epochs)
        plain += seconds
        with tempfile.TemporaryDirectory() as folder:
            seconds, with_them = timed(
                nets, epochs, out=Path(folder) / "run", checkpoint_every=every
            )
            written += seconds
        if without != with_them:
            raise RuntimeError("the checkpoints changed what was computed")
    print(hardware(torch.device("cpu")))
    print(
        f"{given.members} digit MLPs 64->32->10, batch 32; a checkpoint every {every} epochs ",
        end="",
    )
    print(f"({every * epoch:.1f} s); {given.rounds} runs of {epochs} epochs each way, in turn\n")
    print(f"{'':22}{'mean ms an epoch':>18}{'median':>10}")
    for name, found in (("without", plain), ("with checkpoints", written)):
        print(
            f"{name:22}{1000 * statistics.mean(found):18.1f}{1000 * statistics.median(found):10.1f}"
        )
    cost = statistics.mean(written) / statistics.mean(plain) - 1
    # The epochs in which a checkpoint is copied and written against the usual one of the same run.
    middle = statistics.median(written)
    inside = sum(written) / (middle * len(written)) - 1
    print(f"\nmore time with checkpoints: {100 * cost:.1f} %; ", end="")
    print(f"epochs above the median of their own run: {100 * inside:.1f} %")


if __name__ == "__main__":
    main()
