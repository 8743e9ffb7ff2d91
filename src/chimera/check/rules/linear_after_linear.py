"""Two linear layers that are one."""

from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.operations import through
from chimera.check.rule import Place, Rule

_NOTHING = frozenset(
    ("view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "dropout", "clone")
)


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    visits = [v for v in experiment.evaluation.visits if type(v.module) is nn.Linear]
    made = {value: visit for visit in visits for value in visit.outputs}
    for visit in visits:
        if not visit.inputs:
            continue
        for value in through(visit.inputs[0], _NOTHING):
            first = made.get(value)
            if first is not None and first.path != visit.path and len(value.readers) == 1:
                assert isinstance(first.module, nn.Linear)
                assert isinstance(visit.module, nn.Linear)
                narrow = first.module.out_features
                wide = min(first.module.in_features, visit.module.out_features)
                # A narrow middle is a factor of low rank, and meant.
                if narrow >= wide and narrow == visit.module.in_features:
                    yield Place(
                        visit.path,
                        f"the Linear layers `{first.path}` and `{visit.path}` follow each other "
                        "with nothing between",
                    )
                break


RULE = Rule(
    name="linear-after-linear",
    severity="warning",
    what="Two linear layers with no activation, norm or sum between them, the first as wide as "
    "one of its ends. Needs the specification.",
    why="A linear function of a linear function is linear: the two can say no more than one could.",
    mend="Put an activation between them, or leave one out.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, 64)
        self.out = nn.Linear(64, 5)

    def forward(self, x):
        return self.out(self.hidden(x))


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, 64)
        self.out = nn.Linear(64, 5)

    def forward(self, x):
        return self.out(self.hidden(x).relu())


spec = ch.spec(2, 20)
""",
    find=find,
)
