"""An activation of an activation's result, where one was meant."""

from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.operations import Op, through
from chimera.check.rule import Place, Rule

_SOFTMAX = frozenset(("softmax", "log_softmax"))
_FIRST: dict[str, tuple[frozenset[str], Severity]] = {
    "softmax": (_SOFTMAX | {"sigmoid"}, "error"),
    "log_softmax": (_SOFTMAX | {"sigmoid"}, "error"),
    "sigmoid": (frozenset(("sigmoid", "softmax")), "error"),
    "relu": (frozenset(("relu", "sigmoid", "softmax")), "info"),
    "log": (frozenset(("log_softmax",)), "error"),
}
_SHAPE = frozenset(
    ("view", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "contiguous")
) | {"dropout"}


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    for op in experiment.evaluation.ops:
        name = op.name.removesuffix("_")
        if name not in _FIRST or not op.inputs:
            continue
        before, severity = _FIRST[name]
        first = _maker(op)
        if first is None or first.name.removesuffix("_") not in before:
            continue
        if name in _SOFTMAX and first.name in _SOFTMAX and _axes_differ(first, op):
            continue
        yield Place(
            op.path,
            f"{name} of what {first.name.removesuffix('_')}"
            + (f" at `{first.path}`" if first.path != op.path else "")
            + " gives",
            op.file,
            op.line,
            severity,
            mend="Leave one of the two out.",
        )


def _maker(op: Op) -> Op | None:
    *_, last = through(op.inputs[0], _SHAPE)
    return last.maker


def _axes_differ(one: Op, other: Op) -> bool:
    """Whether two softmax run over different axes, as in Sinkhorn's normalization."""
    a, b = one.argument("dim", 1), other.argument("dim", 1)
    axes = len(one.outputs[0].shape)
    return isinstance(a, int) and isinstance(b, int) and a % axes != b % axes


RULE = Rule(
    name="repeated-activation",
    severity="error",
    what="A softmax of a softmax, a sigmoid of a sigmoid, and the like. Needs the specification.",
    why="The second flattens what the first gives: probabilities become nearly equal, and their "
    "gradients small.",
    mend="Leave one of the two out.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(20, 5), nn.Softmax(dim=1))

    def forward(self, x):
        return self.head(x).softmax(dim=1)


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        return self.head(x).softmax(dim=1)


spec = ch.spec(2, 20)
""",
    find=find,
)
