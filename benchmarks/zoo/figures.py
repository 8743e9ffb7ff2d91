"""The figures of `chimera.summary` against torch's own, over every classifier of torchvision.

Parameters against ``sum(p.numel() for p in net.parameters())``, multiply-adds against half of what
``torch.utils.flop_counter`` counts in a run of the network itself; both on the meta device, in the
mode in which a network is made (training). Writes ``docs/summary-figures.md``; ends with 1 where a
figure differs.

    .venv-zoo/bin/python benchmarks/zoo/figures.py
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

import chimera as ch

PAGE = Path(__file__).parents[2] / "docs" / "summary-figures.md"


def networks(only):
    """Name, factory and image size of every classifier."""
    for name in torchvision.models.list_models(module=torchvision.models):
        if only in name:
            # Without auxiliary outputs' own initialization, which takes minutes by scipy.
            more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            size = 299 if name == "inception_v3" else 224

            def make(name=name, more=more):
                return torchvision.models.get_model(name, weights=None, **more)

            yield name, make, size


def by_torch(make, size):
    """Parameters and multiply-adds, by torch alone."""
    net = make().to("meta")
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(2, 3, size, size, device="meta"))
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="networks with this in their name")
    arguments = parser.parse_args()
    rows, wrong = [], []
    for name, make, size in networks(arguments.only):
        wanted = by_torch(make, size)
        start = time.perf_counter()
        report = ch.summary(make, ch.spec(2, 3, size, size), check=False)
        seconds = time.perf_counter() - start
        found = report.parameters, report.multiply_adds
        if found != wanted:
            wrong.append(name)
        modules = sum(1 for _ in report)
        rows.append((name, size, modules, wanted, found, seconds))
        print(f"{name:24} {modules:5} modules  {found}  {wanted}  {seconds:6.1f} s", flush=True)
    if not arguments.only:
        write_page(rows, wrong)
    print(f"{len(rows) - len(wrong)} of {len(rows)} agree" + "".join(f"\nWRONG {w}" for w in wrong))
    return 1 if wrong else 0


def write_page(rows, wrong):
    lines = [
        f"| {name} | {size} | {modules:,} | {found[0]:,} | {found[1]:,} | "
        f"{'yes' if found == wanted else f'no: {wanted[0]:,} and {wanted[1]:,}'} |"
        for name, size, modules, wanted, found, _ in rows
    ]
    PAGE.write_text(
        "# Figures of a summary\n\n"
        f"`ch.summary` over the {len(rows)} classifiers of torchvision {torchvision.__version__} "
        f"(torch {torch.__version__}), two images each, against torch's own: parameters against "
        "`sum(p.numel())`, multiply-adds against half of what `torch.utils.flop_counter` counts in "
        f"a run of the network. {len(rows) - len(wrong)} of {len(rows)} agree to the last digit. "
        "`benchmarks/zoo/figures.py` makes this page, in the environment that `make zoo` sets "
        "up.\n\n"
        "| network | image | modules | parameters | multiply-adds | torch's own agree |\n"
        "|---|---:|---:|---:|---:|---|\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
