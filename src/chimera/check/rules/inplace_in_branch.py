"""An in-place operation at the start of a residual branch."""

from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.operations import Op, Visit
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape

_SUMS = frozenset(("add", "add_", "sub", "mul", "cat", "concat", "__radd__"))


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    tape = experiment.training
    seen: set[str] = set()
    for visit in tape.visits:
        if not visit.module._modules or visit.path in seen:
            continue
        for op in tape.inside(visit):
            if op.inplace and op.inputs and op.inputs[0] in visit.inputs:
                later = _read_again(tape, visit, op)
                if later is not None:
                    seen.add(visit.path)
                    yield Place(
                        op.path,
                        f"{op.name} in place at the start of the branch `{visit.path}` changes "
                        f"what {later.name} reads afterwards",
                        later.file,
                        later.line,
                        mend="Write inplace=False there.",
                    )
                    break


def _read_again(tape: Tape, visit: Visit, op: Op) -> Op | None:
    """A sum, after the branch, of its result and of the tensor that it changed."""
    if op.outputs[0] in visit.outputs:
        return None
    after = {v for output in visit.outputs for v in tape.descendants(output)}
    for reader in op.outputs[0].readers:
        if (
            reader.index >= visit.end
            and reader.name in _SUMS
            and any(value in after for value in reader.inputs if value is not op.outputs[0])
        ):
            return reader
    return None


RULE = Rule(
    name="inplace-in-branch",
    severity="warning",
    what="A residual branch whose first step works in place, such as nn.ReLU(inplace=True), "
    "although the sum reads its input again. Needs the specification.",
    why="The sum adds the changed input, not the one that came in: it is not the network that is "
    "written, and nothing is raised.",
    mend="Leave out inplace=True in the first step of the branch.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(20, 20))

    def forward(self, x):
        x = x.clone()
        return x + self.branch(x)


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(), nn.Linear(20, 20))

    def forward(self, x):
        x = x.clone()
        return x + self.branch(x)


spec = ch.spec(2, 20)
""",
    find=find,
)
