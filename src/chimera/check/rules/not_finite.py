"""Outputs that are NaN or infinite at initialization."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from chimera.check.context import Context
from chimera.check.experiment import Experiment
from chimera.check.rule import Place, Rule
from chimera.check.tried import first_not_finite


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None:
        return
    usual = experiment.usual
    if usual is not None:
        apart = [(a, b) for a, b in zip(usual.numbers, experiment.numbers, strict=True) if a != b]
        one, other = (" and ".join(said) for said in zip(*apart, strict=True))
        on = f" on {one}, though not on {other}"
        for place in _found(usual, on):
            mend = f"Nothing, where such inputs never come. Else: {(place.mend or RULE.mend)}"
            yield replace(place, severity="info", mend=mend)
        return
    yield from _found(experiment, "")


def _found(experiment: Experiment, on: str) -> Iterator[Place]:
    for tape in (experiment.training, experiment.evaluation):
        if tape is None or all(value.finite for value in tape.outputs):
            continue
        if not all(value.finite for value in tape.inputs):
            return
        op = first_not_finite(tape)
        kind = "NaN" if any(value.nan for value in tape.outputs) else "infinite"
        if op is None:
            yield Place("", f"the output holds numbers that are {kind}{on}")
        else:
            mend = None
            if op.name in ("softmax", "scaled_dot_product_attention"):
                mend = "Leave each row of the mask at least one entry that takes part."
            yield Place(
                op.path,
                f"the output is {kind}{on}: {op.name} gives the first such numbers",
                op.file,
                op.line,
                mend=mend,
            )
        return


RULE = Rule(
    name="not-finite",
    severity="error",
    what="A network that gives NaN or infinity before any training: a logarithm or root of "
    "negative numbers, a mask that leaves a softmax nothing. Where the specification leaves the "
    "numbers open, standard normal ones are tried, and zeros for integers; a network that is "
    "finite on others (between 0 and 1, ones) is an info. Needs the specification.",
    why="The loss is NaN in the first step, and every parameter after it.",
    mend="Keep the argument in the function's domain: clamp it, add an epsilon, or use a stable "
    "form such as log_softmax or softplus.",
    before="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return torch.log(self.linear(x))


spec = ch.spec(8, 20)
""",
    after="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return torch.log_softmax(self.linear(x), dim=1)


spec = ch.spec(8, 20)
""",
    find=find,
)
