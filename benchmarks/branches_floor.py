"""Where the time of 16 branches 512->64->32, batch 256, goes, and the least it can take.

    python benchmarks/branches_floor.py [--threads 2] [--rounds 25]

The products of one forward and backward, each measured alone in the form that is fastest here, add
up to the floor; ``by hand`` is the same work without autograd, branches or parameters of their own.
``plain`` and ``fused`` are the row of the table, forward and backward; the rows with Adam are whole
steps of ``ch.train_step`` with ``torch.optim.Adam(fused=True)``. Least and median of all rounds are
given: on a machine with other work the least says more.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from branches import mlp, step
from timing import hardware
from torch import Tensor, nn

import chimera as ch

ROWS, INPUTS, HIDDEN, OUTPUTS, BRANCHES = 256, 512, 64, 32, 16


def products() -> dict[str, tuple[Callable[[], object], int]]:
    """Each product of a step, and its floating-point operations."""
    x = torch.randn(ROWS, INPUTS)
    w = torch.randn(BRANCHES * HIDDEN, INPUTS)
    b = torch.randn(BRANCHES * HIDDEN)
    g = torch.randn(ROWS, BRANCHES * HIDDEN)
    h = torch.randn(BRANCHES, ROWS, HIDDEN)
    v = torch.randn(BRANCHES, OUTPUTS, HIDDEN)
    k = torch.randn(BRANCHES, ROWS, OUTPUTS)
    first = 2 * ROWS * INPUTS * HIDDEN * BRANCHES
    second = 2 * ROWS * HIDDEN * OUTPUTS * BRANCHES
    return {
        "first layer, one product": (lambda: torch.addmm(b, x, w.T), first),
        "its weights' gradient": (lambda: g.T @ x, first),
        "second layer, batched": (lambda: torch.bmm(h, v.transpose(1, 2)), second),
        "its weights' gradient, batched": (lambda: torch.bmm(k.transpose(1, 2), h), second),
        "its input's gradient, batched": (lambda: torch.bmm(k, v), second),
    }


def by_hand() -> Callable[[], object]:
    """A whole step in as few operations as there can be."""
    x = torch.randn(ROWS, INPUTS)
    w, b = torch.randn(BRANCHES, HIDDEN, INPUTS) * 0.04, torch.randn(BRANCHES, 1, HIDDEN)
    v, c = torch.randn(BRANCHES, OUTPUTS, HIDDEN) * 0.1, torch.randn(BRANCHES, 1, OUTPUTS)
    wide = x.expand(BRANCHES, ROWS, INPUTS)

    def run() -> tuple[Tensor, ...]:
        h = torch.baddbmm(b, wide, w.transpose(1, 2)).relu_()
        y = torch.baddbmm(c, h, v.transpose(1, 2))
        y = y.transpose(0, 1).reshape(ROWS, BRANCHES * OUTPUTS)
        g = torch.ones_like(y).view(ROWS, BRANCHES, OUTPUTS).transpose(0, 1)
        dv, dc = torch.bmm(g.transpose(1, 2), h), g.sum(1)
        dh = torch.ops.aten.threshold_backward(torch.bmm(g, v), h, 0)
        return torch.bmm(dh.transpose(1, 2), wide), dh.sum(1), dv, dc

    return run


def with_adam(net: nn.Module, x: Tensor, engine: str) -> Callable[[], object]:
    """A whole step with torch's fused Adam; a compiled one is compiled when this returns."""
    y = torch.zeros(ROWS, BRANCHES * OUTPUTS)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
    taken = ch.train_step(net, nn.functional.mse_loss, optimizer, engine=engine)
    for _ in range(4 if engine == "compiled" else 0):
        taken(x, y)
    return lambda: taken(x, y)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    torch.manual_seed(0)
    x = torch.randn(ROWS, INPUTS)
    net = ch.Parallel(*(mlp(INPUTS, HIDDEN, OUTPUTS)() for _ in range(BRANCHES)))
    parts = products()
    runs = {name: run for name, (run, _) in parts.items()}
    runs |= {"by hand": by_hand(), "plain": step(net, x), "fused": step(ch.fuse(net), x)}
    fused = ch.fuse(net, decide="measure")
    runs["fused, decide=measure"] = step(fused, x)
    runs["fused, torch.compile"] = step(torch.compile(ch.fuse(net)), x)
    runs["plain, torch.compile"] = step(torch.compile(copy.deepcopy(net)), x)
    runs["plain, Adam"] = with_adam(copy.deepcopy(net), x, "eager")
    runs["fused, Adam"] = with_adam(ch.fuse(net), x, "eager")
    runs["plain, Adam, compiled"] = with_adam(copy.deepcopy(net), x, "compiled")
    runs["fused, Adam, compiled"] = with_adam(ch.fuse(net), x, "compiled")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.rounds + 3):
        for name, run in runs.items():
            start = clock()
            run()
            if turn > 2:
                times[name].append((clock() - start) * 1e3)
    print(hardware(torch.device("cpu")))
    for name, found in times.items():
        rate = f"{parts[name][1] / min(found) / 1e6:6.0f} GFLOP/s" if name in parts else ""
        least, middle = min(found), statistics.median(found)
        print(f"{name:32} least {least:7.3f} ms  median {middle:7.3f} ms  {rate}")
    floor = sum(min(times[name]) for name in parts)
    work = sum(operations for _, operations in parts.values()) / 1e6
    print(f"floor: {floor:.3f} ms for {work:.0f} MFLOP; least of plain is "
          f"{min(times['plain']) / floor:.2f} of it, of fused {min(times['fused']) / floor:.2f}; "
          f"plain / fused {min(times['plain']) / min(times['fused']):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
