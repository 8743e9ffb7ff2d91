"""What a replicated network pays for looking which parameters a call used.

    python benchmarks/unused.py [--rounds 7] [--steps 10]

Two gloo ranks of one thread each take the same steps of the same network in three ways, in turns:
torch's DDP with ``find_unused_parameters=False``, with True, and ``ch.distribute``. A figure is the
median over rounds of the milliseconds of a step (forward, backward, SGD), of rank 0. All ways must
end with the same weights.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timing import hardware
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import chimera as ch

RANKS = 2
WAYS = ("DDP, False", "DDP, True", "ch.distribute")


def mlp() -> nn.Module:
    hidden = [m for _ in range(4) for m in (nn.Linear(512, 512), nn.ReLU())]
    return nn.Sequential(nn.Linear(128, 512), nn.ReLU(), *hidden, nn.Linear(512, 10))


def deep() -> nn.Module:
    block = lambda: ch.Residual(nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU()))  # noqa: E731
    return nn.Sequential(nn.Linear(128, 64), ch.Repeat(block, 40), nn.Linear(64, 10))


def cnn() -> nn.Module:
    widths = [(3, 32), (32, 64), (64, 64)]
    stages = [
        m for a, b in widths for m in (nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.ReLU())
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 128->5x512->10, batch 64": (mlp, (64, 128)),
    "40 residual blocks of 64, batch 64": (deep, (64, 128)),
    "CNN 3x32x32, batch 32": (cnn, (32, 3, 32, 32)),
}


def ways(net: nn.Module) -> dict[str, tuple[nn.Module, bool]]:
    """The network in each way, and whether a call takes the whole batch."""
    plain = [copy.deepcopy(net) for _ in WAYS]
    return {
        WAYS[0]: (DistributedDataParallel(plain[0], find_unused_parameters=False), False),
        WAYS[1]: (DistributedDataParallel(plain[1], find_unused_parameters=True), False),
        WAYS[2]: (ch.distribute(plain[2], "replicate"), True),
    }


def measured(make: Callable[[], nn.Module], shape: tuple[int, ...], rounds: int, steps: int) -> Any:
    torch.manual_seed(0)
    found, x = ways(make()), torch.randn(shape)
    y = torch.randint(10, shape[:1])
    mine = slice(dist.get_rank(), None, RANKS)
    optimizers = {name: torch.optim.SGD(net.parameters(), 0.01) for name, (net, _) in found.items()}
    loss = nn.functional.cross_entropy

    def step(name: str) -> None:
        net, whole = found[name]
        rows, target = (x, y) if whole else (x[mine], y[mine])
        optimizers[name].zero_grad()
        loss(net(rows), target).backward()
        optimizers[name].step()

    times: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds + 1):
        for name in found:
            dist.barrier()
            start = time.perf_counter()
            for _ in range(steps):
                step(name)
            if number:  # the first looks at the network, and makes buckets
                times[name].append(1000 * (time.perf_counter() - start) / steps)
    ends: list[list[Tensor]] = [list(net.parameters()) for net, _ in found.values()]
    far = max(
        float((a - b).detach().abs().max() / a.detach().abs().max())
        for others in ends[1:]
        for a, b in zip(ends[0], others, strict=True)
    )
    assert far < 1e-4, far
    return {name: statistics.median(own) for name, own in times.items()}


def rank(number: int, folder: str, rounds: int, steps: int) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=number, world_size=RANKS
    )
    found = {name: measured(*how, rounds, steps) for name, how in NETWORKS.items()}
    if number == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rank", nargs=2)
    options = parser.parse_args()
    if options.rank:
        rank(int(options.rank[0]), options.rank[1], options.rounds, options.steps)
        return
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *sys.argv]
        started = [
            subprocess.Popen([*command, "--rank", str(number), folder], env=environment)
            for number in range(RANKS)
        ]
        codes = [process.wait() for process in started]
        assert not any(codes), codes
        found = json.loads(Path(folder, "found.json").read_text())
    machine = hardware(torch.device("cpu"))
    print(f"{machine}; {RANKS} gloo ranks of one thread; ms a step, median of {options.rounds}")
    print(f"{'network':<36}" + "".join(f"{name:>15}" for name in WAYS) + f"{'True/False':>12}")
    for name, times in found.items():
        ratio = times[WAYS[1]] / times[WAYS[0]]
        row = "".join(f"{times[way]:>15.2f}" for way in WAYS)
        print(f"{name:<36}{row}{ratio:>12.3f}")


if __name__ == "__main__":
    main()
