"""Branches that run one after another and are concatenated."""

from collections.abc import Iterable

from chimera.blocks import Parallel
from chimera.check.context import Context
from chimera.check.operations import Visit
from chimera.check.rule import Place, Rule

_JOINS = ("cat", "concat", "concatenate", "stack", "hstack")


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    tape = experiment.evaluation
    children: dict[tuple[str, object], Visit] = {}
    seen: set[str] = set()
    for visit in tape.visits:
        if visit.above is not None and len(visit.outputs) == 1:
            children[visit.above.path, visit.outputs[0]] = visit
    modules = dict(experiment.net.named_modules())
    for op in tape.ops:
        if op.name not in _JOINS or op.path in seen or len(op.inputs) < 2:
            continue
        branches = [children.get((op.path, value)) for value in op.inputs]
        found = [branch for branch in branches if branch is not None]
        if len(found) < len(op.inputs) or isinstance(modules.get(op.path), Parallel):
            continue
        same = all(b.inputs == found[0].inputs for b in found)
        if same and len({b.path for b in found}) == len(found):
            seen.add(op.path)
            names = [b.path.removeprefix(f"{op.path}.") for b in found]
            combine = "stack" if op.name == "stack" else "concat"
            dim = 1 if op.name == "hstack" else op.argument("dim", 1, 0)
            inner = ", ".join(f"self.{name}" for name in names)
            yield Place(
                op.path,
                f"{len(found)} branches run on one input, one after another, and {op.name} joins "
                "them: " + ", ".join(f"`{b.path}`" for b in found),
                op.file,
                op.line,
                mend=f'Write ch.Parallel({inner}, combine="{combine}", dim={dim}).',
            )


RULE = Rule(
    name="branches-by-hand",
    severity="info",
    what="Several children that run on the same input and whose outputs are concatenated or "
    "stacked. Needs the specification.",
    why="ch.Parallel says so in one line, and branches of one structure can then run as one.",
    mend="Use ch.Parallel.",
    before="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(20, 5)
        self.b = nn.Linear(20, 5)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], dim=1)


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.both = ch.Parallel(nn.Linear(20, 5), nn.Linear(20, 5), combine="concat", dim=1)

    def forward(self, x):
        return self.both(x)


spec = ch.spec(2, 20)
""",
    find=find,
)
