"""Writes docs/speed.md from what benchmarks/peers.py and growth.py have kept.

python benchmarks/speed_page.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"
COLUMNS = (
    *("loop", "vmap", "vmap compiled", "step compiled", "vmap graph"),
    *("ModelBatch", "Ensemble", "JAX"),
)
JAX = ("JAX", "JAX shifted")

HEAD = """\
# Speed

A population's training step (forward, loss, backward, Adam) against the other ways to take it:

- *loop*: the modules one after the other, a fused `torch.optim.Adam` each;
- *vmap*: `torch.func` by hand with one fused Adam over the stacked parameters; *vmap compiled*:
  `vmap(grad_and_value(...))` under `torch.compile` and a fused Adam; *step compiled*: that Adam in
  the compiled function, too. Other forms were slower (the forward alone compiled takes three times
  as long). `vmap` refuses recurrent layers: for these the compiled forms have a cell written out;
- *ModelBatch* (`modelbatch`) and *Ensemble* (`tensordict.nn.EnsembleModule`), one fused Adam;
- *JAX*: `vmap` and `jit` of the whole step, Adam by optax, buffers donated; for convolutions the
  faster of two forms;
- *ours*: a `Stack` and `train_step` with each `engine`, **a learning rate per member**, where the
  others have one for all.

Before anything is timed, all take six steps in float64 and must give the loop's losses within 1e-6.
They run in turn in one process, and the medians are shown, in milliseconds. The *floor* is what the
step cannot go below: the bytes it must move at the rate of a copy, and the operations of its
products at the rate of a product of matrices, both measured on the machine just before.
"""

GROWTH = """\
MLPs 64->32->10 with a batch of 32 (with the width: 64 MLPs 64->w->w->10), by the candidates above;
the loop up to 1,024 members. Branches are forward and backward of a `Parallel` on one shared input.
Memory is what a process of its own held at most beyond what it held before it made the members, and
five steps; below 64 MiB a compiled step is first taken on copies, which shows there.
"""

COMMANDS = """\
```
pip install '.[bench]'
python benchmarks/peers.py                          # the first table; --device cuda for a GPU
python benchmarks/peers.py --seed 7 --count 6       # shapes that the seed draws
python benchmarks/peers.py --compile-loop 64        # a compiled loop too, with and without
                                                    # Inductor's batch_linear fusion (minutes)
python benchmarks/growth.py members --json FILE     # also: width, branches, memory, then plots
```
"""

PLOTS = {
    "members": "With the number of members",
    "width": "With the width",
    "branches": "With the number of branches",
    "memory": "Memory",
}


def best(times: dict[str, float], ours: bool) -> tuple[str, float]:
    """The fastest of ours, or of the others."""
    found = {name: t for name, t in times.items() if name.startswith("ours") == ours}
    name = min(found, key=lambda name: found[name])
    return name, found[name]


def said(known: dict[str, Any]) -> str:
    """The hardware, and what is noted about the run."""
    return "\n\n".join(known[key] for key in ("hardware", "note") if key in known)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as a table, and below it where a peer is faster."""
    engines = list(dict.fromkeys(n for row in rows for n in row["ms"] if n.startswith("ours")))
    known = {name for row in rows for name in row["ms"]}
    columns = [name for name in COLUMNS if name in known]
    head = ["members", *columns, *engines, "best peer / best of ours", "floor", "of it"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lost = []
    for row in rows:
        times = dict(row["ms"])
        jax = [times.pop(name) for name in JAX if name in times]
        if jax:
            times["JAX"] = min(jax)
        peer, own = best(times, ours=False), best(times, ours=True)
        cells = [f"{times[name]:.2f}" if name in times else "-" for name in (*columns, *engines)]
        share = f"{row['floor_ms'] / own[1]:.0%}"
        ratio = peer[1] / own[1]
        lines.append(
            f"| {row['row']} | "
            + " | ".join([*cells, f"{ratio:.2f} ({peer[0]})", f"{row['floor_ms']:.2f}", share])
            + " |"
        )
        if ratio < 1:
            lost.append(f"{row['row']}: {peer[0]} takes {ratio:.0%} of our time")
    lines.append("")
    if lost:
        lines += ["A peer is faster here:", "", *(f"- {line}." for line in lost), ""]
    else:
        lines += ["No peer is faster on these rows.", ""]
    failed = {
        f"- {name} cannot do {row['row']}: {why.removeprefix('fails: ')}"
        for row in rows
        for name, why in row["failed"].items()
        if why != "-"
    }
    return lines + ([*sorted(failed), ""] if failed else [])


def page(results: Path) -> str:
    """The text of the page."""
    parts = [HEAD]
    for path in sorted(results.glob("peers-*.json"), key=lambda path: path.stem):
        known = json.loads(path.read_text())
        title = "Shapes drawn from a seed" if "seed" in path.stem else "Chosen shapes"
        parts += [f"## {title}\n\n{said(known)}\n", "\n".join(table(known["rows"]))]
    for path in sorted(results.glob("growth-*.json")):
        known = json.loads(path.read_text())
        parts.append(f"## Growth\n\n{GROWTH}\n{said(known)}\n")
        parts += [
            f"### {title}\n\n![{title}: time or memory against size](img/growth-{kind}.svg)\n"
            for kind, title in PLOTS.items()
            if kind in known
        ]
    parts += ["## Measure it\n", COMMANDS]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(RESULTS))
