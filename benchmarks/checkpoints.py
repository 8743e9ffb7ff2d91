"""What writing a checkpoint every 2 s costs a run of 256 digit MLPs.

    python benchmarks/checkpoints.py [--members 256] [--seconds 40] [--rounds 1] [--kept FILE]

Runs with and without a run directory come in pairs, either first in turn; a checkpoint is written
every so many epochs as take 2 s. A figure is the mean time of an epoch, evaluation and checkpoints
in. Both must end with the same bits. With ``--kept`` pairs are added to those of earlier calls, and
the table is of all: a quiet minute at a time is enough.
"""

import argparse
import itertools
import json
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


def pair(members: int, seconds: float, first: bool) -> dict[str, Any]:
    """A run with checkpoints and one without, whichever ``first``: the seconds of their epochs."""
    nets = ch.instances(MLP, members, 64, 10, hidden=32, seed=0)
    epoch = statistics.median(timed(nets, 5)[0])
    every = max(1, round(2 / epoch))
    epochs = every * math.ceil(seconds / epoch / every) + 1
    found: dict[str, Any] = {"every": every, "epoch": epoch}
    losses: list[list[float]] = []
    for written in (first, not first):
        with tempfile.TemporaryDirectory() as folder:
            more = {"out": Path(folder) / "run", "checkpoint_every": every} if written else {}
            found["written" if written else "plain"], last = timed(nets, epochs, **more)
            losses.append(last)
    if losses[0] != losses[1]:
        raise RuntimeError("the checkpoints changed what was computed")
    return found


def told(members: int, pairs: list[dict[str, Any]]) -> None:
    """Print the table."""
    every, epoch = (statistics.median(one[name] for one in pairs) for name in ("every", "epoch"))
    counts = sorted({len(one["plain"]) for one in pairs})
    print(
        f"{members} digit MLPs 64->32->10, batch 32; a checkpoint every {every:g} epochs ", end=""
    )
    print(
        f"({every * epoch:.1f} s); {len(pairs)} pairs of runs of {counts[0]}-{counts[-1]} epochs\n"
    )
    print(f"{'pair':>6}{'without':>12}{'with':>10}{'more':>9}{'above the median':>20}")
    costs = []
    for number, one in enumerate(pairs, 1):
        plain, written = one["plain"], one["written"]
        costs.append(statistics.mean(written) / statistics.mean(plain) - 1)
        # The epochs in which a checkpoint is copied and written, and what follows, against the
        # usual one of the same run.
        inside = statistics.mean(written) / statistics.median(written) - 1
        print(
            f"{number:6}{1000 * statistics.mean(plain):9.1f} ms"
            f"{1000 * statistics.mean(written):7.1f} ms"
            f"{100 * costs[-1]:7.1f} %{100 * inside:18.1f} %"
        )
    print(
        f"\nmore time with checkpoints, median of the pairs: {100 * statistics.median(costs):.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kept", type=Path, help="a file to which pairs are added")
    given = parser.parse_args()
    there = given.kept.read_text().splitlines() if given.kept and given.kept.exists() else []
    pairs = [json.loads(line) for line in there]
    for _ in range(given.rounds):
        pairs.append(pair(given.members, given.seconds, len(pairs) % 2 == 0))
    if given.kept:
        given.kept.write_text("".join(json.dumps(one) + "\n" for one in pairs))
    print(hardware(torch.device("cpu")))
    told(given.members, pairs)


if __name__ == "__main__":
    main()
