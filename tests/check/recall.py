"""Recall of `check`: each rule's mistake planted into five clean networks, and looked for there.

Run as a script it writes the table ``docs/check/recall.md``:

    make recall
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

import chimera as ch
from chimera.build.inputs import Inputs
from chimera.build.spec import Spec

sys.path.insert(0, str(Path(__file__).parent / "planting"))

from mistakes import MISTAKES, ROWS, IgnoresInput, Mistake
from networks import NETWORKS

sys.path.pop(0)

PAGE = Path(__file__).parents[2] / "docs" / "check" / "recall.md"


def planted(network: str, mistake: Mistake) -> tuple[Callable[[], nn.Module], Inputs, str]:
    """A network with the mistake in it, its inputs, and where the mistake stands."""
    factory, spec, place = NETWORKS[network]
    inputs = spec if isinstance(spec, Inputs) else ch.inputs(spec)
    if mistake.fixed:
        inputs = inputs.map(lambda s: Spec((ROWS, *s.shape[1:]), s.dtype))
    if mistake.make is IgnoresInput:
        inputs = ch.inputs(*inputs.args, ch.spec("batch", 3))

    def make() -> nn.Module:
        net = factory()
        if mistake.whole:
            return mistake.make(net)
        above, _, name = place.rpartition(".")
        holder = net.get_submodule(above)
        holder._modules[name] = mistake.make(holder._modules[name])
        return net

    if mistake.whole:
        return make, inputs, mistake.below or ""
    return make, inputs, f"{place}.{mistake.below}".strip(".")


@functools.cache
def is_found(rule: str, network: str) -> bool:
    """Whether the rule finds its mistake in the network, at the path where it was planted."""
    make, inputs, path = planted(network, MISTAKES[rule])
    findings = ch.check(make, inputs, loss=MISTAKES[rule].loss)
    return path in [finding.path for finding in findings if finding.rule == rule]


def page() -> str:
    """The table of rules and networks, in Markdown."""
    found = {rule: [is_found(rule, network) for network in NETWORKS] for rule in MISTAKES}
    rows = "\n".join(
        f"| [{rule}]({rule}.md) | "
        + " | ".join("found" if hit else "**missed**" for hit in hits)
        + f" | {sum(hits)} of {len(hits)} |"
        for rule, hits in found.items()
    )
    hits = sum(map(sum, found.values()))
    total = len(MISTAKES) * len(NETWORKS)
    return f"""\
# Recall

The mistake of each of the {len(MISTAKES)} rules is planted by a script into five clean networks
(`tests/check/planting/`), in which `ch.check` must find it at its path. Found: {hits} of {total}
({hits / total:.1%}). `make recall` plants them all and writes this page; the long tests ask for
nine in ten over all and four of five for each rule.

| rule | {" | ".join(NETWORKS)} | found |
| --- |{" --- |" * len(NETWORKS)} ---: |
{rows}
"""


if __name__ == "__main__":
    PAGE.write_text(page())
