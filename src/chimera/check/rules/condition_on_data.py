"""Control flow that depends on data."""

from collections.abc import Iterable
from pathlib import Path

from chimera.check.context import Context
from chimera.check.rule import Place, Rule

_OURS = str(Path(__file__).parents[2])
"""Our own blocks, such as While, ask for the caller who wants no graph."""


def find(context: Context) -> Iterable[Place]:
    if context.trial is None:
        return
    for condition in context.trial.conditions:
        if condition.file.startswith(_OURS):
            continue
        file = context.sources.file(condition.file)
        text = file.line(condition.line).strip() if file is not None else "a condition"
        yield Place(
            condition.path or "",
            f"`{text}` depends on the data",
            condition.file,
            condition.line,
        )


RULE = Rule(
    name="condition-on-data",
    severity="info",
    what="An if, while or assert on the values of a tensor. Needs the specification.",
    why="A device waits for the answer at each call; torch.export refuses it, torch.compile breaks "
    "the graph, CUDA graphs cannot hold it, and a Stack runs members that decide differently in "
    "parts.",
    mend="Use ch.While or ch.Cond, which run in one graph, where one of these matters.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        while x.abs().sum() > 1:
            x = x / 2
        return x


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


def is_large(x):
    return x.abs().sum() > 1


class Half(nn.Module):
    def forward(self, x):
        return x / 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.shrink = ch.While(is_large, Half(), limit=1000)

    def forward(self, x):
        return self.shrink(x)


spec = ch.spec(2, 20)
""",
    find=find,
)
