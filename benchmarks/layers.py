"""Every class of ``torch.nn``, stacked against the loop of its members.

    python benchmarks/layers.py [Class ...] [--into FILE --seconds 80]

A forward and a backward of 8 and of 64 members on the small cases of ``layer_cases.py``: the
processor time on one thread, medians of runs in turn, which what else the machine does disturbs
least. Results are kept in ``benchmarks/results/layers.json``, which ``docs/coverage.md`` shows.
They are written after every class. With ``--seconds`` the command ends once they have passed; given
again, it goes on with the classes that the file lacks.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from layer_cases import CASES, Case
from timing import hardware
from torch import Tensor

import chimera as ch

RESULTS = Path(__file__).parent / "results" / "layers.json"
SIZES = (8, 64)


def backward(output: Any) -> None:
    """Differentiate the sum of what an output holds."""
    total = _total(output)
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()


def _total(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.sum() if output.is_floating_point() else 0
    return sum(_total(part) for part in output) if isinstance(output, (tuple, list)) else 0


def candidates(case: Case, members: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """The stack, and the loop over its members."""
    modules = case.modules(members)
    stack = ch.Stack(modules)
    args, named = case.arguments(members)
    each = [tensor.requires_grad_(tensor.is_floating_point()) for tensor in args]
    rows = [[_leaf(tensor[i]) for tensor in args] for i in range(members)]
    others = [{key: _leaf(t[i]) for key, t in named.items()} for i in range(members)]
    marked = {key: ch.each(tensor) for key, tensor in named.items()}

    def stacked() -> None:
        backward(stack(*map(ch.each, each), **marked))

    def loop() -> None:
        for module, row, other in zip(modules, rows, others, strict=True):
            backward(module(*row, **other))

    return stacked, loop


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def measure(case: Case, members: int, seconds: float = 0.4) -> tuple[float, float]:
    """Milliseconds of the stack and of the loop."""
    both = candidates(case, members)
    times: list[list[float]] = [[], []]
    for candidate in (*both, *both):
        candidate()
    rounds = max(5, min(40, int(seconds / sum(map(_time, both)))))
    for _ in range(rounds):
        for candidate, found in zip(both, times, strict=True):
            found.append(1000 * _time(candidate))
    stacked, loop = map(statistics.median, times)
    return stacked, loop


def _time(candidate: Callable[[], None]) -> float:
    start = time.process_time()
    candidate()
    return max(time.process_time() - start, 1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("classes", nargs="*", metavar="Class")
    parser.add_argument("--into", type=Path, default=RESULTS, help="the file of results")
    parser.add_argument("--seconds", type=float, help="end then; leave out what the file has")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    into = options.into
    kept = json.loads(into.read_text()) if into.exists() else {"layers": {}}
    kept["hardware"] = hardware(torch.device("cpu"))
    print(kept["hardware"])
    print(
        f"{'milliseconds of all members':<30} {'members':>7} {'stack':>9} {'loop':>9} {'ratio':>7}"
    )
    start = time.monotonic()
    for name in options.classes or CASES:
        if options.seconds is not None:
            if time.monotonic() - start > options.seconds:
                break
            if name in kept["layers"]:
                continue
        found = {}
        for members in SIZES:
            stacked, loop = measure(CASES[name], members)
            found[str(members)] = {"stack": round(stacked, 3), "loop": round(loop, 3)}
            print(f"{name:<30} {members:7} {stacked:9.2f} {loop:9.2f} {loop / stacked:7.1f}")
        kept["layers"] = dict(sorted({**kept["layers"], name: found}.items()))
        into.parent.mkdir(exist_ok=True)
        into.write_text(json.dumps(kept, indent=1) + "\n")
    left = len(CASES.keys() - kept["layers"].keys())
    print(f"{left} classes left")


if __name__ == "__main__":
    main()
