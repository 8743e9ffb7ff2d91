"""Populations against peers: a training step of all members, each way there is to take it.

    python benchmarks/peers.py [--device cuda] [--rounds 15] [--only GRU] [--seed 7 --count 6]
                               [--engines eager,auto] [--compile-loop 16] [--json FILE]

The loop of modules, ``torch.func`` eager and compiled, a compiled loop with and without Inductor's
``batch_linear`` fusion, JAX (``vmap`` and ``jit``), ModelBatch, tensordict's EnsembleModule, and
ours, as far as they are installed (``pip install .[bench]``). Without ``--seed`` the rows are those
of the table in docs/speed.md; with it, rows that the seed draws. Before a row is timed, every
candidate takes six steps in float64, and the losses of the sixth must agree with the loop's within
1e-6; one that fails to run is shown as "fails", one that computes something else raises. Then each
runs in turn, round after round; medians. The floor is counted (see work.py) and divided by what the
machine measured just before: the rate of a copy and of a product of matrices.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from candidates import Step, available, fresh_compiler
from machine import floor, rates
from timing import hardware, medians
from work import CPU, GPU, Row, drawn

import chimera as ch

STEPS = 6


def as_numbers(losses: Any) -> np.ndarray:
    """The losses as float64 [members]."""
    if isinstance(losses, list):
        losses = torch.stack(losses)
    if isinstance(losses, torch.Tensor):
        losses = losses.cpu().numpy()
    return np.asarray(losses, dtype=np.float64)


def prepared(candidate: Any, row: Row, device: torch.device, dtype: torch.dtype) -> Step | None:
    """The candidate's step on fresh members; None where it has no form for the row."""
    modules = [m.to(device, dtype) for m in ch.instances(row.make, row.members, seed=0)]
    made: Step | None = candidate(modules, row, *row.batches(device, dtype))
    return made


def check(candidates: dict[str, Any], row: Row, device: torch.device) -> dict[str, str]:
    """What went wrong by candidate; raises where one computes something else than the loop."""
    failed: dict[str, str] = {}
    expected: np.ndarray | None = None
    for name, candidate in candidates.items():
        print(f"  checking {name}", time.strftime("%T"), file=sys.stderr, flush=True)
        try:
            step = prepared(candidate, row, device, torch.float64)
            if step is None:
                failed[name] = "-"
                continue
            for _ in range(STEPS):
                losses = step()
        except Exception as error:
            if name.startswith("ours"):
                raise
            failed[name] = f"fails: {type(error).__name__}: {str(error).splitlines()[0]:.100}"
            continue
        found = as_numbers(losses)
        if expected is None:
            expected = found
        gap = np.abs(found - expected).max() / np.abs(expected).max()
        if not gap <= 1e-6:
            raise AssertionError(f"{row.name}: {name} differs from the loop by {gap:.1e}")
    return failed


def measure(row: Row, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Milliseconds by candidate, and the floor."""
    with fresh_compiler():
        engines = tuple(options.engines.split(","))
        candidates = available(engines, options.compile_loop, row.members)
        if options.candidates:
            wanted = {"loop", *options.candidates.split(",")}
            candidates = {name: c for name, c in candidates.items() if name in wanted}
        failed = check(candidates, row, device)
        torch.compiler.reset()
        steps, first = {}, {}
        for name, candidate in candidates.items():
            if name in failed:
                continue
            print(f"  warming {name}", time.strftime("%T"), file=sys.stderr, flush=True)
            step = prepared(candidate, row, device, torch.float32)
            assert step is not None
            for _ in range(options.warm):  # "auto" settles, compilers compile
                start = time.perf_counter()
                as_numbers(step())
                first.setdefault(name, time.perf_counter() - start)
            steps[name] = step
        copy, product = rates(device)
        found = medians(steps, rounds=options.rounds, seconds=options.seconds)
    least = floor(row, copy, product)
    cost = row.cost
    return {
        "row": row.name,
        "ms": {name: 1e3 * value for name, value in found.items()},
        "first_call_s": first,
        "failed": failed,
        "floor_ms": 1e3 * least,
        "bytes": 4 * cost.numbers * row.members,
        "operations": cost.operations * row.members,
        "copy_GB_per_s": copy / 1e9,
        "product_GFLOP_per_s": product / 1e9,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """A row as text."""
    times = found["ms"]
    mine = {name: t for name, t in times.items() if name.startswith("ours")}
    peers = {name: t for name, t in times.items() if name not in mine}
    best, own = min(peers, key=lambda name: peers[name]), min(mine, key=lambda name: mine[name])
    text = [
        f"{found['row']}",
        f"  {found['bytes'] / 1e6:.1f} MB and {found['operations'] / 1e6:.0f} million operations; "
        f"copy {found['copy_GB_per_s']:.1f} GB/s, product {found['product_GFLOP_per_s']:.0f} "
        f"GFLOP/s: floor {found['floor_ms']:.2f} ms",
    ]
    for name, value in times.items():
        mark = " <" if name in (best, own) else ""
        text.append(
            f"  {name:16} {value:9.2f} ms  {found['floor_ms'] / value:6.1%} of the floor"
            f"  first call {found['first_call_s'][name]:6.2f} s{mark}"
        )
    text += [f"  {name:16} {why}" for name, why in found["failed"].items() if why != "-"]
    text.append(f"  best peer / best of ours: {best} / {own} = {peers[best] / mine[own]:.2f}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a candidate in a round")
    parser.add_argument("--warm", type=int, default=40, help="steps before anything is timed")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--candidates", default="", help="a list; the loop is always one")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--engines", default="eager,compiled")
    parser.add_argument("--compile-loop", type=int, default=0)
    parser.add_argument("--json", type=Path, help="rows are added to this file")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")  # tf32 on a GPU; a CPU computes in float32
    rows = GPU if device.type == "cuda" else CPU
    if options.seed is not None:
        rows = drawn(options.seed, options.count, device)
    print(hardware(device))
    print(f"milliseconds a step of all members, medians of {options.rounds} rounds\n", flush=True)
    for row in rows:
        if options.only not in row.name:
            continue
        found = measure(row, options, device)
        print("\n".join(lines(found)), flush=True)
        if options.json is not None:
            known = json.loads(options.json.read_text()) if options.json.exists() else {"rows": []}
            known["hardware"] = hardware(device)
            kept = [other for other in known["rows"] if other["row"] != row.name]
            known["rows"] = [*kept, found]
            options.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
