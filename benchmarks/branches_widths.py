"""Branches of different widths: plain, in groups of equal widths, padded, and by the rule.

    python benchmarks/branches_widths.py [--threads 1] [--rounds 9] [--only 64]

A row is one forward and backward of all branches on one shared input, as times the plain network's
speed. ``groups`` and ``padded`` force one way for later layers (convolutions have groups alone),
``model`` lets the rules decide. All must give the plain network's gradients before they are timed.
With one thread the processor's own time is taken, with more the time on the wall.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import torch
from branches import ALWAYS, Factory, checked, medians, mlp, step
from timing import hardware
from torch import nn

import chimera as ch
from chimera.fuse import beside_products, choice
from chimera.fuse.beside_products import Costs

GROUPS = Costs(group=0, padding=1, number=0, operation=0)
PADDED = Costs(group=1, padding=0, number=0, operation=0)


@dataclass(frozen=True)
class Row:
    """Branches of factories, and the shape of their input."""

    name: str
    factories: list[Factory]
    x: tuple[int, ...]


def cnn(first: int, second: int) -> Factory:
    return lambda: nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
    )


def rows() -> list[Row]:
    """The rows: few widths and many, small products and large."""
    found = []
    for count in (4, 8, 16, 32):
        for batch in (4, 32):
            two = [mlp(64, (32, 48)[i % 2], 10) for i in range(count)]
            found.append(Row(f"{count} x 64->32 or 48->10, batch {batch}", two, (batch, 64)))
            every = [mlp(64, 16 + 2 * i, 10) for i in range(count)]
            found.append(Row(f"{count} x 64->16, 18, ..->10, batch {batch}", every, (batch, 64)))
    for count in (4, 16):
        every = [mlp(512, 32 + 4 * i, 32) for i in range(count)]
        found.append(Row(f"{count} x 512->32, 36, ..->32, batch 256", every, (256, 512)))
        deep = [mlp(32, 16 + i, 16 + 2 * i, 8) for i in range(count)]
        found.append(Row(f"{count} x 32->16, 17, ..->16, 18, ..->8, batch 16", deep, (16, 32)))
        some = [cnn(8 + 4 * (i % 2), 8) for i in range(count)]
        found.append(Row(f"{count} x cnn 8 or 12, 8x8, batch 8", some, (8, 3, 8, 8)))
        all_ = [cnn(4 + i, 4 + 2 * i) for i in range(count)]
        found.append(Row(f"{count} x cnn 4, 5, .., 8x8, batch 8", all_, (8, 3, 8, 8)))
    return found


def forced(run: Callable[[], object], costs: Costs) -> Callable[[], object]:
    """``run`` with branches as one, later layers in one way."""

    def ran() -> None:
        with (
            patch.multiple(choice, _THREADS=ALWAYS, _ONE_THREAD=ALWAYS, _DECISIONS=kept),
            patch.object(beside_products, "CPU", costs),
        ):
            run()

    kept: dict[object, object] = {}
    return ran


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print(hardware(torch.device("cpu")))
    print("times the plain network's speed, forward and backward")
    print(f"{'':46} {'plain ms':>9} {'groups':>7} {'padded':>7} {'model':>7}")
    for row in rows():
        if options.only not in row.name:
            continue
        torch.manual_seed(0)
        net = ch.Parallel(*(make() for make in row.factories))
        x = torch.randn(row.x)
        with patch.multiple(choice, _THREADS=ALWAYS, _ONE_THREAD=ALWAYS):
            grouped, padded = ch.fuse(net), ch.fuse(net)
        ruled = ch.fuse(net)
        nets = [
            (net, step(net, x)),
            (grouped, forced(step(grouped, x), GROUPS)),
            (padded, forced(step(padded, x), PADDED)),
            (ruled, step(ruled, x)),
        ]
        checked(nets)
        plain, *others = medians([run for _, run in nets], options.rounds, clock)
        said = " ".join(f"{plain / took:7.2f}" for took in others)
        print(f"{row.name:46} {plain * 1e3:9.3f} {said}", flush=True)


if __name__ == "__main__":
    main()
