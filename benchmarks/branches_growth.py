"""Time of a step against the number of branches: plain, compiled, torch.func by hand, fused.

    python benchmarks/branches_growth.py [--widths 64,32,10] [--batch 32] [--most 256]
        [--compile-most 64] [--threads 2] [--out benchmarks/results/branches_growth.json]

A step is one forward and backward of MLP branches on one shared input. The candidates run in turn;
times are medians in milliseconds, of the processor with one thread, on the wall with more. A
compiled one's first call, forward and backward, is given in seconds. All must give the plain
network's gradients before they are timed.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from branches import medians, mlp, step
from timing import hardware
from torch import Tensor, nn

import chimera as ch


def by_hand(net: nn.Module, x: Tensor) -> tuple[Callable[[], object], Callable[[], list[Tensor]]]:
    """A step with ``torch.func``, as its tutorial writes it; and its gradients, as the net's."""
    branches = list(net.children())
    stacked, _ = torch.func.stack_module_state(branches)
    meta = branches[0]

    def call(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(meta, params, (x,))  # type: ignore[no-any-return]

    def run() -> None:
        for p in stacked.values():
            p.grad = None
        out = torch.vmap(call, (0, None))(stacked, x)
        out.transpose(0, 1).flatten(1).sum().backward()

    def grads() -> list[Tensor]:
        return [stacked[name].grad[i] for i in range(len(branches)) for name in stacked]

    return run, grads


def first_call(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measured(net: nn.Module, x: Tensor, compiles: Sequence[str], rounds: int) -> dict[str, Any]:
    """Milliseconds a step of every candidate, and seconds to compile those that are to be."""
    fused = ch.fuse(net)
    hand, hand_grads = by_hand(net, x)
    runs = {"plain": step(net, x), "torch.func": hand, "fused": step(fused, x)}
    found: dict[str, Any] = {}
    runs["plain"]()
    plain = [p.grad.clone() for p in net.parameters()]
    others: dict[str, Callable[[], list[Any]]] = {
        "torch.func": hand_grads,
        "fused": lambda: [p.grad for p in fused.parameters()],
    }
    for name in compiles:
        one = {"plain": net, "fused": fused}[name]
        torch._dynamo.reset()
        label = f"{name}, torch.compile"
        runs[label] = step(torch.compile(one, fullgraph=True), x)
        found[f"{label}: seconds"] = first_call(runs[label])
        others[label] = lambda one=one: [p.grad for p in one.parameters()]
    for name, grads in others.items():
        runs[name]()
        for a, b in zip(plain, grads(), strict=True):
            assert (a - b).abs().max() <= 1e-4 * a.abs().max() + 1e-6, name
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    took = medians(list(runs.values()), rounds, clock)
    return found | {name: one * 1e3 for name, one in zip(runs, took, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--widths", default="64,32,10")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--most", type=int, default=256)
    parser.add_argument("--compile-most", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(True)
    widths = [int(width) for width in options.widths.split(",")]
    print(hardware(torch.device("cpu")), f"{options.widths}, batch {options.batch}")
    rows = []
    count = 1
    while count <= options.most:
        torch.manual_seed(0)
        net = ch.Parallel(*(mlp(*widths)() for _ in range(count)))
        x = torch.randn(options.batch, widths[0])
        kinds = ("plain", "fused") if count <= options.compile_most else ()
        row = measured(net, x, kinds, options.rounds)
        rows.append({"branches": count} | row)
        print(f"{count:4}  " + "  ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
        count *= 2 if options.most <= 64 else 4
    if options.out:
        where = {"hardware": hardware(torch.device("cpu")), "options": vars(options), "rows": rows}
        Path(options.out).write_text(json.dumps(where, indent=1) + "\n")


if __name__ == "__main__":
    main()
