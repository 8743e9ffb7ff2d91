"""Branches of a ``Parallel``: one after the other, fused, and what ``fuse`` decides.

    python benchmarks/branches.py [--threads 1] [--rounds 9] [--only 512]

A row is one forward and backward of all branches on one shared input. ``as one`` forces the fused
way, ``model`` lets the rule decide; the rule's limits in ``chimera/fuse/choice.py`` come from these
rows. Before anything is timed, outputs and gradients of all must agree within 1e-4 of the
tensor's largest value. With one thread the processor's own time is taken, which a busy machine
disturbs least; with more, the time on the wall, the candidates in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import torch
from timing import hardware
from torch import Tensor, nn

import chimera as ch
from chimera.fuse import choice
from chimera.fuse.choice import Limit

Factory = Callable[[], nn.Module]
ALWAYS = {kind: Limit(2, 1e30) for kind in choice._THREADS}


class Own(nn.Module):
    """An MLP whose forward no table knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(16, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0][:, -1]


@dataclass(frozen=True)
class Row:
    """``count`` branches of a factory on an input of shape ``x``."""

    name: str
    factory: Factory
    count: int
    x: tuple[int, ...]


def mlp(*widths: int) -> Factory:
    def make() -> nn.Module:
        layers = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return make


def cnn(channels: int, size: int) -> Factory:
    return lambda: nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


ROWS = [
    *(Row(f"{n} x 8->8->8, batch 4", mlp(8, 8, 8), n, (4, 8)) for n in (2, 4, 8, 16, 64)),
    *(Row(f"{n} x 64->32->10, batch 32", mlp(64, 32, 10), n, (32, 64)) for n in (4, 16, 64)),
    *(Row(f"{n} x 256->64->32, batch 64", mlp(256, 64, 32), n, (64, 256)) for n in (4, 16)),
    *(Row(f"{n} x 512->64->32, batch 256", mlp(512, 64, 32), n, (256, 512)) for n in (4, 16)),
    Row("16 x 512->512->256, batch 128", mlp(512, 512, 256), 16, (128, 512)),
    *(Row(f"{n} x cnn 8, 8x8, batch 4", cnn(8, 8), n, (4, 3, 8, 8)) for n in (2, 3, 8)),
    *(Row(f"{n} x cnn 16, 8x8, batch 32", cnn(16, 8), n, (32, 3, 8, 8)) for n in (3, 8)),
    *(Row(f"{n} x cnn 32, 16x16, batch 32", cnn(32, 16), n, (32, 3, 16, 16)) for n in (3, 8)),
    *(Row(f"{n} x own forward, batch 32", Own, n, (32, 64)) for n in (4, 16, 64)),
    *(Row(f"{n} x GRU 16->32, 20 steps, batch 8", Recurrent, n, (8, 20, 16)) for n in (2, 4, 16)),
]


def step(net: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> None:
        for parameter in net.parameters():
            parameter.grad = None
        net(x).sum().backward()

    return run


def always(run: Callable[[], object]) -> Callable[[], object]:
    """``run`` with a rule that always runs branches as one."""

    def forced() -> None:
        with patch.multiple(choice, _THREADS=ALWAYS, _ONE_THREAD=ALWAYS, _DECISIONS=kept):
            run()

    kept: dict[object, object] = {}
    return forced


def checked(nets: list[tuple[nn.Module, Callable[[], object]]]) -> None:
    """Run every candidate once; all must give the plain network's gradients."""
    found = []
    for net, run in nets:
        run()
        found.append([p.grad for p in net.parameters()])
    for grads in found[1:]:
        for ours, plain in zip(grads, found[0], strict=True):
            assert (ours - plain).abs().max() <= 1e-4 * plain.abs().max() + 1e-6


def medians(
    runs: list[Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> list[float]:
    """Seconds a call, the candidates in turn."""
    counts = []
    for run in runs:
        run()
        start = clock()
        run()
        counts.append(max(1, int(0.1 / max(clock() - start, 1e-5))))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, count, found in zip(runs, counts, times, strict=True):
            start = clock()
            for _ in range(count):
                run()
            found.append((clock() - start) / count)
    return [statistics.median(found) for found in times]


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
    print(f"{'':36} {'plain ms':>9} {'as one':>7} {'model':>7}")
    for row in ROWS:
        if options.only not in row.name:
            continue
        torch.manual_seed(0)
        net = ch.Parallel(*(row.factory() for _ in range(row.count)))
        x = torch.randn(row.x)
        with patch.multiple(choice, _THREADS=ALWAYS, _ONE_THREAD=ALWAYS):
            fused = ch.fuse(net)
        modelled = ch.fuse(net)
        nets = [(net, step(net, x)), (fused, always(step(fused, x))), (modelled, step(modelled, x))]
        checked(nets)
        plain, forced, ruled = medians([run for _, run in nets], options.rounds, clock)
        print(
            f"{row.name:36} {plain * 1e3:9.3f} {plain / forced:7.2f} {plain / ruled:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
