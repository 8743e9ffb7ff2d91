"""Biases that a batch norm takes away again."""

from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule

_BIASED = (nn.Linear, nn.modules.conv._ConvNd)
_FUNCTIONS = ("batch_norm", "instance_norm")
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    visits = experiment.training.visits
    made = {
        v: visit for visit in visits for v in visit.outputs if isinstance(visit.module, _BIASED)
    }
    seen: set[str] = set()
    for visit in visits:
        if not isinstance(visit.module, _NORMS) or not visit.inputs:
            continue
        before = made.get(visit.inputs[0])
        if before is None or before.module.bias is None or before.path in seen:
            continue
        if all(op.path == visit.path for op in visit.inputs[0].readers):
            seen.add(before.path)
            yield Place(
                before.path,
                f"the bias has no effect: the {type(visit.module).__name__} at `{visit.path}` "
                "takes the mean away",
            )
    for op in experiment.training.ops:
        before = made.get(op.inputs[0]) if op.name in _FUNCTIONS and op.inputs else None
        if before is None or before.module.bias is None or before.path in seen:
            continue
        if op.argument("training", 5, op.kwargs.get("use_input_stats")) is False:
            continue
        if op.inputs[0].readers == [op]:
            seen.add(before.path)
            yield Place(
                before.path,
                f"the bias has no effect: {op.name} takes the mean away",
                op.file,
                op.line,
            )


RULE = Rule(
    name="bias-before-norm",
    severity="info",
    what="A linear or convolutional layer with a bias, whose output only a batch norm or instance "
    "norm reads. Needs the specification.",
    why="The norm subtracts the mean, and the bias with it: its gradient is rounding noise, "
    "memory and time are spent on nothing.",
    mend="Write bias=False in the layer; the norm has a bias of its own.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())


spec = ch.spec(2, 3, 8, 8)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())


spec = ch.spec(2, 3, 8, 8)
""",
    find=find,
)
