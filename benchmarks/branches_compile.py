"""Seconds to compile branches: plain under torch.compile, fused under it, fused in our engine.

    python benchmarks/branches_compile.py [--branches 8,64,256] [--plain-most 64] [--threads 2]

Branches are 512->64->32, batch 256, one shared input. What is timed is everything until a step has
run compiled: ``ch.fuse`` where there is any, the first forward and backward of ``torch.compile``,
or the steps of ``ch.train_step(engine="compiled")`` until one ran compiled, with plain SGD. Each
figure is of a process and a compiler's cache of its own, after a small network was compiled there,
so that what torch loads once is not counted. Time of the processor is given beside that on the
wall, since a busy machine disturbs it less; the C++ compiler counts, which is started in turn.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import torch
from branches import mlp, step
from timing import hardware
from torch import nn

import chimera as ch

KINDS = ("plain, torch.compile", "fused, torch.compile", "fused, engine")


def clocks() -> tuple[float, float]:
    took = os.times()
    return time.perf_counter(), took.user + took.system + took.children_user + took.children_system


def compiled(kind: str, net: nn.Module, x: torch.Tensor) -> nn.Module:
    """Compile a step of ``net`` and run it."""
    if kind.startswith("plain"):
        step(torch.compile(net, fullgraph=True), x)()
        return net
    fused = ch.fuse(net)
    if kind.endswith("compile"):
        step(torch.compile(fused, fullgraph=True), x)()
        return fused
    y = torch.zeros(len(x), net(x).shape[1])
    optimizer = torch.optim.SGD(fused.parameters(), lr=0.0)
    taken = ch.train_step(fused, nn.functional.mse_loss, optimizer, engine="compiled")
    for _ in range(4):
        taken(x, y)
    assert "is compiled" in str(ch.explain(taken)), str(ch.explain(taken))
    return fused


def alone(kind: str, branches: int, threads: int) -> None:
    """Print seconds on the wall and of the processor for one kind."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warm = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    step(torch.compile(warm), torch.randn(2, 4))()
    net = ch.Parallel(*(mlp(512, 64, 32)() for _ in range(branches)))
    x = torch.randn(256, 512)
    start = clocks()
    made = compiled(kind, net, x)
    wall, own = (b - a for a, b in zip(start, clocks(), strict=True))
    found = [p.grad for p in made.parameters()]
    assert all(grad is not None for grad in found)
    print(f"{wall:.2f} {own:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--branches", default="8,64,256")
    parser.add_argument("--plain-most", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", default="")
    options = parser.parse_args()
    if options.alone:
        alone(options.alone, int(options.branches), options.threads)
        return
    torch.set_num_threads(options.threads)
    print(hardware(torch.device("cpu")))
    print("seconds on the wall (of the processor)")
    print(f"{'branches':>8} " + " ".join(f"{kind:>22}" for kind in KINDS))
    for branches in map(int, options.branches.split(",")):
        cells = []
        for kind in KINDS:
            if kind.startswith("plain") and branches > options.plain_most:
                cells.append("-")
                continue
            with tempfile.TemporaryDirectory() as cache:
                mine = [sys.executable, __file__, "--alone", kind, "--branches", str(branches)]
                made = subprocess.run(
                    [*mine, "--threads", str(options.threads)],
                    env=os.environ
                    | {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"},
                    capture_output=True,
                    text=True,
                    check=True,
                )
            wall, own = made.stdout.split()[-2:]
            cells.append(f"{wall} ({own})")
        print(f"{branches:>8} " + " ".join(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
