"""One batch norm behind several layers."""

from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    makers: dict[str, dict[str, None]] = {}
    for visit in experiment.training.visits:
        norm = isinstance(visit.module, nn.modules.batchnorm._BatchNorm)
        if norm and visit.inputs and visit.module.track_running_stats:
            maker = visit.inputs[0].maker
            if maker is not None:
                makers.setdefault(visit.path, {})[maker.path] = None
    for path, before in makers.items():
        if len(before) > 1:
            listed = ", ".join(f"`{name or 'the root'}`" for name in before)
            yield Place(path, f"one batch norm stands behind {len(before)} modules: {listed}")


RULE = Rule(
    name="shared-norm",
    severity="warning",
    what="One batch norm that runs behind several layers in one call. Needs the specification.",
    why="Its running mean and variance are a blend of all of them: in training each is normalized "
    "by its own, in evaluation by the blend, which fits none.",
    mend="Give each layer a norm of its own.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(20, 20)
        self.b = nn.Linear(20, 20)
        self.norm = nn.BatchNorm1d(20)

    def forward(self, x):
        x = self.norm(self.a(x)).relu()
        return self.norm(self.b(x)).relu()


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(20, 20)
        self.b = nn.Linear(20, 20)
        self.norm_a = nn.BatchNorm1d(20)
        self.norm_b = nn.BatchNorm1d(20)

    def forward(self, x):
        x = self.norm_a(self.a(x)).relu()
        return self.norm_b(self.b(x)).relu()


spec = ch.spec(2, 20)
""",
    find=find,
)
