"""A column against a row, which broadcast to a square."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn import functional

from chimera.check.context import Context
from chimera.check.rule import Place, Rule

_ARITHMETIC = frozenset(
    (
        "add",
        "sub",
        "mul",
        "div",
        "rsub",
        "__radd__",
        "__rsub__",
        "__rmul__",
        "true_divide",
        "minimum",
        "maximum",
        "where",
        "mse_loss",
        "l1_loss",
        "smooth_l1_loss",
        "pow",
    )
)
_REGRESSION = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCEWithLogitsLoss,
    nn.BCELoss,
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    functional.binary_cross_entropy_with_logits,
    functional.binary_cross_entropy,
)


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None or experiment.rows < 2:
        return
    tape, rows = experiment.evaluation, experiment.rows
    moved = {value for given in tape.inputs for value in tape.descendants(given)}
    for op in tape.ops:
        shapes = {value.shape for value in op.inputs if value in moved}
        results = {value.shape for value in op.outputs}
        pairs = {(rows, 1), (rows,)} <= shapes and results & {(rows, rows), ()}
        if op.name in _ARITHMETIC and pairs:
            yield Place(
                op.path,
                f"{op.name} of [{rows}, 1] and [{rows}] gives every pair of samples: "
                f"[{rows}, {rows}]",
                op.file,
                op.line,
            )
    if _is_regression(context.loss) and any(v.shape == (rows, 1) for v in tape.outputs):
        yield Place(
            "",
            f"the output is [{rows}, 1]: a target of [{rows}] would broadcast to "
            f"[{rows}, {rows}] in the loss",
            severity="info",
            mend="Give the target as [N, 1], or squeeze(-1) the output.",
        )


def _is_regression(loss: Any) -> bool:
    return loss in _REGRESSION or type(loss) in _REGRESSION


RULE = Rule(
    name="broadcast-rows",
    severity="error",
    what="Arithmetic between tensors of shapes [N, 1] and [N], N the batch; an output of [N, 1] "
    "with a loss that broadcasts (an info). Needs the specification.",
    why="They broadcast to [N, N]: each sample meets every other, the mean of that is no loss, and "
    "torch at most warns.",
    mend="Give both the same shape: squeeze(-1) one, or unsqueeze(-1) the other.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 1)

    def forward(self, x):
        return self.linear(x) - x.mean(1)


spec = ch.spec("batch", 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 1)

    def forward(self, x):
        return self.linear(x) - x.mean(1, keepdim=True)


spec = ch.spec("batch", 20)
""",
    find=find,
)
