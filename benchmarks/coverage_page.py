"""Writes ``docs/coverage.md``: every class of ``torch.nn`` in a stack.

    python benchmarks/coverage_page.py

What ran each class and whether it held is found out anew; the speeds are those that
``benchmarks/layers.py`` kept.
"""

import json
from pathlib import Path

from layer_cases import layer_names
from layer_proof import ALONE, CASES, MEMBERS, STEPS, Proof, prove, prove_training
from layers import RESULTS, SIZES

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"
HEAD = f"""# Layers

Every public class of `torch.nn` that has a forward, in a stack of {MEMBERS} members, each with
weights and inputs of its own, held against the members alone by `ch.verify`: outputs, gradients of
inputs and parameters, and buffers in float32 and in float64, and {STEPS} steps of Adam in float64.
*Rule* is what ran it, as `ch.explain` says: a stack rule, or torch's own batching.
*Speed* is the time of the loop over that of the stack, a forward and a backward on small inputs.

This page is written by `python benchmarks/coverage_page.py`; the speeds are from
`python benchmarks/layers.py` on {{hardware}},
with nothing else running.

| class | rule | float32 | float64 | {STEPS} steps | speed, 8 members | speed, 64 members |
|---|---|---|---|---|---|---|
"""
SLOWER = """
## Where the loop is faster

A call of a Stack costs some 0.1 ms whatever it runs: the arguments are sorted, the members' tensors
put in the place of the layer's own, and what the call wrote looked for. A layer alone, forward and
backward, costs 0.03 to 0.05 ms, so that 8 members of the cheapest layers only just pay. Layers that
draw pay for numbers that belong to a seed, a member and a step, made of some thirty integer
operations where torch's generator takes one. In a network of several layers the fixed cost is paid
once. Measured slower than the loop, by more than 5%:

{slower}.
"""
TAIL = """
## One by one

What has no natural stacked form runs one by one: as exact, reported by `ch.explain`, and no faster
than a loop.

| what | why |
|---|---|
"""


def kept() -> dict:
    """What ``layers.py`` measured."""
    return json.loads(RESULTS.read_text())


def row_of(name: str, proof: Proof, training: list[str], speeds: dict) -> str:
    """The line of a class."""
    cells = [f"`{name}`", proof.rule + (f": {proof.reason}" if proof.reason else "")]
    cells += ["wrong" if proof.wrong[kind] else "ok" for kind in ("float32", "float64")]
    cells.append("wrong" if training else "ok")
    found = speeds["layers"].get(name, {})
    for size in SIZES:
        times = found.get(str(size))
        cells.append(f"{times['loop'] / times['stack']:.1f}" if times else "not measured")
    return f"| {' | '.join(cells)} |"


def _slower(speeds: dict, size: int) -> list[str]:
    """The classes that ran slower than the loop, by more than the noise."""
    found = {name: times[str(size)] for name, times in speeds["layers"].items()}
    return [f"`{name}`" for name, each in found.items() if each["loop"] < 0.95 * each["stack"]]


def page(rows: list[str], speeds: dict) -> str:
    """The whole page from the classes' lines."""
    head = HEAD.replace("{hardware}", speeds["hardware"])
    slower = "; ".join(
        f"with {size} members {', '.join(names)}"
        for size in SIZES
        if (names := _slower(speeds, size))
    )
    alone = "\n".join(f"| {what} | {known.why} |" for what, known in ALONE.items())
    where = SLOWER.replace("{slower}", slower or "none")
    return head + "\n".join(rows) + "\n" + where + TAIL + alone + "\n"


def main() -> None:
    speeds = kept()
    names = [name for name in layer_names() if name in CASES]
    rows = [row_of(name, prove(CASES[name]), prove_training(CASES[name]), speeds) for name in names]
    PAGE.write_text(page(rows, speeds))


if __name__ == "__main__":
    main()
