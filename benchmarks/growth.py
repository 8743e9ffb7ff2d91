"""How a step grows: with the members, the width, the branches; and the memory it takes.

    python benchmarks/growth.py members --json benchmarks/results/growth-NAME.json [--budget 80]
    python benchmarks/growth.py width --json ...
    python benchmarks/growth.py branches --json ...
    python benchmarks/growth.py memory --json ...
    python benchmarks/growth.py plots --json ... --to docs/img

``members``: MLPs 64->32->10, batch 32, N from 1 to 16,384. ``width``: 64 MLPs 64->w->w->10, batch
32. ``branches``: forward and backward of a ``Parallel`` of MLPs 64->32->10 on one input of 32 rows,
plain, by ``torch.func``, compiled and fused. ``memory``: the most that a process of its own held
more than before its first step, five steps of N MLPs 64->32->10. The candidates of a size run in
turn in one process, each for a share of ``--seconds``; medians. A size that the file has is not
measured again, and none is begun after ``--budget`` seconds: call until all is there. ``plots``
draws what the file holds (matplotlib, in the ``bench`` extra).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from branches import mlp
from branches_growth import measured
from candidates import Candidate, Step, available, fresh_compiler
from peers import as_numbers
from timing import hardware, medians
from work import Row

import chimera as ch

SIZES = {
    "members": (1, 4, 16, 64, 256, 1024, 4096, 16384),
    "width": (8, 32, 128, 512),
    "branches": (4, 16, 64, 256),
    "memory": (64, 256, 1024, 4096, 16384),
}
LOOP_UP_TO = 1024
"""Members up to which the loop is run: from there on it only grows in proportion."""
COMPILED_UP_TO = 16
"""Branches up to which the plain network is compiled: minutes, beyond."""
CPU = torch.device("cpu")
CALLED = {
    "plain": "Parallel",
    "plain, torch.compile": "Parallel compiled",
    "fused": "ours, ch.fuse",
    "fused, torch.compile": "ours, ch.fuse compiled",
}


def members(n: int) -> Row:
    return Row("mlp", (64, 32, 10), n, 32)


def wide(width: int) -> Row:
    return Row("mlp", (64, width, width, 10), 64, 32)


def chosen(row: Row, options: argparse.Namespace) -> dict[str, Candidate]:
    """The candidates of a row; the loop last, since it trains the modules themselves."""
    found = available(tuple(options.engines.split(",")), 0, 1)
    wanted = options.candidates.split(",") if options.candidates else [*found]
    loop = found.pop("loop")
    names = [name for name in found if name in wanted and "shifted" not in name]
    few = "loop" in wanted and row.members <= LOOP_UP_TO
    return {name: found[name] for name in names} | ({"loop": loop} if few else {})


def population(row: Row, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds by candidate."""
    device = torch.device(options.device)
    modules = [m.to(device) for m in ch.instances(row.make, row.members, seed=0)]
    data = row.batches(device, torch.float32)
    steps: dict[str, Step] = {}
    with fresh_compiler():
        for name, candidate in chosen(row, options).items():
            steps[name] = candidate(modules, row, *data)
            for _ in range(options.warm):
                as_numbers(steps[name]())
        times = medians(steps, rounds=options.rounds, seconds=options.seconds)
    return {name: 1e3 * value for name, value in times.items()}


def branches(count: int, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a forward and backward, by candidate."""
    torch.manual_seed(0)
    net = ch.Parallel(*(mlp(64, 32, 10)() for _ in range(count)))
    kinds = ("plain", "fused") if count <= COMPILED_UP_TO else ("fused",)
    found = measured(net, torch.randn(32, 64), kinds, options.rounds)
    return {CALLED.get(name, name): t for name, t in found.items() if "seconds" not in name}


def memory(count: int, options: argparse.Namespace) -> dict[str, float]:
    """Megabytes by candidate, each in a process of its own."""
    found = {"parameters x 4": 4 * 4 * 2410 * count / 1e6}
    for name in chosen(members(count), options):
        command = [sys.executable, __file__, "one", "--name", name, "--count", str(count)]
        command += ["--engines", options.engines]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = float(done.stdout.split()[-1])
    return found


def one(options: argparse.Namespace) -> None:
    """Print the megabytes that five steps add to the most that this process held."""
    candidate = available(tuple(options.engines.split(",")), 0, 1)[options.name]

    def made(row: Row) -> Step:
        modules = ch.instances(row.make, row.members, seed=0)
        return candidate(modules, row, *row.batches(CPU, torch.float32))

    small = made(members(2))
    for _ in range(5):
        as_numbers(small())  # what is loaded and compiled once does not count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = made(members(options.count))
    for _ in range(5):
        as_numbers(step())
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6)


TITLES = {
    "members": ("members", "ms a step", "MLPs 64->32->10, batch 32"),
    "width": ("width of the hidden layers", "ms a step", "64 MLPs 64->w->w->10, batch 32"),
    "branches": ("branches", "ms forward and backward", "Parallel of MLPs 64->32->10, 32 rows"),
    "memory": ("members", "MB more than before", "MLPs 64->32->10, batch 32, five steps"),
}


def plots(known: dict[str, Any], folder: Path) -> None:
    """One picture for each kind of growth that the file has."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "chimera"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for kind, (across, up, title) in TITLES.items():
        if kind not in known:
            continue
        figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
        names = dict.fromkeys(name for point in known[kind].values() for name in point)
        for name in names:
            points = [(int(n), point[name]) for n, point in known[kind].items() if name in point]
            mine = name.startswith("ours")
            width, marker = (2.5, "o") if mine else (1.2, ".")
            axes.plot(*zip(*points, strict=True), label=name, linewidth=width, marker=marker)
        axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up, title=title)
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(folder / f"growth-{kind}.svg", metadata={"Date": None})
        pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=[*TITLES, "one", "plots"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--engines", default="eager,compiled")
    parser.add_argument("--candidates", default="", help="a list; all by default")
    parser.add_argument("--sizes", default="", help="a list of sizes; all by default")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--json", type=Path, help="what is measured is added to this file")
    parser.add_argument("--to", type=Path, default=Path("docs/img"))
    parser.add_argument("--name", default="")
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args()
    start = time.monotonic()
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    if options.what == "one":
        one(options)
        return
    if options.what == "plots":
        plots(known, options.to)
        return
    ways: dict[str, Callable[[int], dict[str, float]]] = {
        "members": lambda n: population(members(n), options),
        "width": lambda n: population(wide(n), options),
        "branches": lambda n: branches(n, options),
        "memory": lambda n: memory(n, options),
    }
    known["hardware"] = hardware(torch.device(options.device))
    print(known["hardware"])
    old = known.setdefault(options.what, {})
    for size in map(int, options.sizes.split(",")) if options.sizes else SIZES[options.what]:
        if str(size) in old:
            continue
        if time.monotonic() - start > options.budget:
            print(f"{size} and what follows: not begun")
            return
        old[str(size)] = ways[options.what](size)
        print(size, {name: round(value, 3) for name, value in old[str(size)].items()}, flush=True)
        if options.json:
            known[options.what] = dict(sorted(old.items(), key=lambda pair: int(pair[0])))
            old = known[options.what]
            options.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
