"""How a step grows: with the members, the width, the branches; and the memory it takes.

    python benchmarks/growth.py members [--json benchmarks/results/growth.json]
    python benchmarks/growth.py width
    python benchmarks/growth.py branches
    python benchmarks/growth.py memory
    python benchmarks/growth.py plots --json benchmarks/results/growth.json --to docs/img

``members``: MLPs 64->32->10, batch 32, N from 1 to 16,384. ``width``: 64 MLPs 64->w->w->10, batch
32. ``branches``: forward and backward of a ``Parallel`` of MLPs 64->32->10 on one input of 32 rows,
plain, compiled and fused. ``memory``: the most that a process of its own held more than before its
first step, five steps of N MLPs 64->32->10. Candidates in turn, medians, in one process; what takes
more than ``--limit`` seconds a step, or does not run, is left out. ``plots`` draws what the file
holds (matplotlib, in the ``bench`` extra).
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from candidates import available, fresh_compiler
from peers import as_numbers, prepared
from timing import hardware, medians
from torch import Tensor, nn
from work import Row

import chimera as ch

MEMBERS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
WIDTHS = (8, 16, 32, 64, 128, 256, 512)
BRANCHES = (2, 4, 8, 16, 32, 64, 128, 256)
LOOP_UP_TO = 1024
"""Members up to which the loop is run: from there on it only grows in proportion."""


def members(n: int) -> Row:
    return Row("mlp", (64, 32, 10), n, 32)


def populations(rows: dict[int, Row], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds by candidate and size."""
    device, found = torch.device(options.device), {}
    for size, row in rows.items():
        steps = {}
        with fresh_compiler():
            for name, candidate in available(tuple(options.engines.split(",")), 0, 1).items():
                if (name == "loop" and row.members > LOOP_UP_TO) or "shifted" in name:
                    continue
                if options.candidates and name not in options.candidates.split(","):
                    continue
                step = prepared(candidate, row, device, torch.float32)
                assert step is not None
                for _ in range(options.warm):
                    as_numbers(step())
                steps[name] = step
            times = medians(steps, rounds=options.rounds, seconds=options.seconds)
        found[str(size)] = {name: 1e3 * value for name, value in times.items()}
        print(size, {name: round(value, 3) for name, value in found[str(size)].items()}, flush=True)
    return found


def branches(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds of a forward and backward, by candidate and number of branches."""
    device, found = torch.device(options.device), {}
    for count in BRANCHES:
        nets = {"Parallel": parallel(count).to(device)}
        nets["ours, ch.fuse"] = ch.fuse(nets["Parallel"])
        x = torch.randn(32, 64, device=device)
        steps = {name: trained(net, x) for name, net in nets.items()}
        with fresh_compiler():
            if count <= options.compile_loop:
                steps["Parallel compiled"] = trained(torch.compile(parallel(count).to(device)), x)
            times = medians(steps, rounds=options.rounds, seconds=options.seconds)
        found[str(count)] = {name: 1e3 * value for name, value in times.items()}
        print(count, {name: round(v, 3) for name, v in found[str(count)].items()}, flush=True)
    return found


def parallel(count: int) -> nn.Module:
    torch.manual_seed(0)
    row = members(1)
    return ch.Parallel(*(row.make() for _ in range(count)))


def trained(net: Any, x: Tensor) -> Callable[[], object]:
    def step() -> None:
        for parameter in net.parameters():
            parameter.grad = None
        net(x).sum().backward()

    return step


def memory(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Megabytes by candidate and number of members, each in a process of its own."""
    found: dict[str, dict[str, float]] = {}
    for count in (64, 256, 1024, 4096):
        found[str(count)] = {"parameters x 4": 4 * 4 * 2410 * count / 1e6}
        for name in available(tuple(options.engines.split(",")), 0, 1):
            if "shifted" in name or (name == "loop" and count > LOOP_UP_TO):
                continue
            if options.candidates and name not in options.candidates.split(","):
                continue
            command = [sys.executable, __file__, "one", "--name", name, "--count", str(count)]
            command += ["--engines", options.engines]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[str(count)][name] = float(done.stdout.split()[-1])
        print(count, found[str(count)], flush=True)
    return found


def one(options: argparse.Namespace) -> None:
    """Print the megabytes that five steps add to the most that this process held."""
    row = members(options.count)
    candidate = available(tuple(options.engines.split(",")), 0, 1)[options.name]
    small = prepared(candidate, members(2), torch.device("cpu"), torch.float32)
    assert small is not None
    as_numbers(small())  # what is loaded and compiled once does not count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = prepared(candidate, row, torch.device("cpu"), torch.float32)
    assert step is not None
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
    parser.add_argument("--compile-loop", type=int, default=0)
    parser.add_argument("--json", type=Path, help="what is measured is added to this file")
    parser.add_argument("--to", type=Path, default=Path("docs/img"))
    parser.add_argument("--name", default="")
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args()
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    if options.what == "one":
        one(options)
        return
    if options.what == "plots":
        plots(known, options.to)
        return
    print(hardware(torch.device(options.device)))
    chosen = tuple(map(int, options.sizes.split(","))) if options.sizes else ()
    if options.what == "members":
        found = populations({n: members(n) for n in chosen or MEMBERS}, options)
    elif options.what == "width":
        rows = {w: Row("mlp", (64, w, w, 10), 64, 32) for w in chosen or WIDTHS}
        found = populations(rows, options)
    elif options.what == "branches":
        found = branches(options)
    else:
        found = memory(options)
    if options.json:
        known["hardware"] = hardware(torch.device(options.device))
        old = known.setdefault(options.what, {})
        for size, times in found.items():
            old[size] = old.get(size, {}) | times
        known[options.what] = dict(sorted(old.items(), key=lambda pair: int(pair[0])))
        options.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
