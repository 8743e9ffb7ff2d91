"""A softmax that is not told its axis."""

from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule

_NAMES = ("softmax", "log_softmax", "softmin")


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    for op in experiment.evaluation.ops:
        if op.name not in _NAMES or op.argument("dim", 1) is not None:
            continue
        axes = len(op.inputs[0].shape)
        # torch chooses axis 0 of one and three axes, axis 1 of others.
        dim = 0 if axes in (0, 1, 3) else 1
        severity: Severity = "error" if dim == 0 and axes == 3 else "warning"
        yield Place(
            op.path,
            f"{op.name} without dim: of {axes} axes torch takes axis {dim}",
            op.file,
            op.line,
            severity,
        )


RULE = Rule(
    name="softmax-without-dim",
    severity="warning",
    what="softmax, log_softmax or softmin without dim. Needs the specification.",
    why="torch guesses: axis 0 of a tensor with three axes, which mixes the samples of a batch, "
    "axis 1 of one with two or four.",
    mend="Write dim=-1, or the axis that is meant.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)
        self.softmax = nn.Softmax()

    def forward(self, x):
        return self.softmax(self.linear(x))


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x):
        return self.softmax(self.linear(x))


spec = ch.spec(2, 20)
""",
    find=find,
)
