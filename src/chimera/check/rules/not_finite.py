"""Outputs that are NaN or infinite at initialization."""

from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.operations import Op
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None:
        return
    for tape in (experiment.training, experiment.evaluation):
        if tape is None or all(value.finite for value in tape.outputs):
            continue
        if not all(value.finite for value in tape.inputs):
            return
        op = _first(tape)
        kind = "NaN" if any(value.nan for value in tape.outputs) else "infinite"
        if op is None:
            yield Place("", f"the output holds numbers that are {kind}")
        else:
            mend = None
            if op.name in ("softmax", "scaled_dot_product_attention"):
                mend = "Leave each row of the mask at least one entry that takes part."
            yield Place(
                op.path,
                f"the output is {kind}: {op.name} gives the first such numbers",
                op.file,
                op.line,
                mend=mend,
            )
        return


def _first(tape: Tape) -> Op | None:
    """The operation that made the first NaN on the way to the output, or the first infinity."""
    wanted = tape.ancestors(tape.outputs)
    ops = [op for op in tape.ops if not wanted.isdisjoint(op.outputs)]
    for op in ops:
        if any(v.nan for v in op.outputs) and not any(v.nan for v in op.inputs):
            return op
    for op in ops:
        if not all(v.finite for v in op.outputs) and all(v.finite for v in op.inputs):
            return op
    return None


RULE = Rule(
    name="not-finite",
    severity="error",
    what="A network that gives NaN or infinity on standard normal inputs, before any training: a "
    "logarithm or root of negative numbers, a mask that leaves a softmax nothing. Needs the "
    "specification.",
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
