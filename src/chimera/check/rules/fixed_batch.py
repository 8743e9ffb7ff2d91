"""A size of the batch that is written into the network."""

from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None or experiment.rows < 2:
        return
    rows = experiment.rows
    tape, error = experiment.with_rows(rows + 1)
    # A multiple may still pass: an even batch, say.
    if error is None or experiment.with_rows(2 * rows)[1] is None:
        return
    trace = error.__traceback__
    file = line = None
    while trace is not None:
        source = context.sources.file(trace.tb_frame.f_code.co_filename)
        name = trace.tb_frame.f_globals.get("__name__", "")
        if source is not None and name.split(".")[0] not in ("torch", "chimera"):
            file, line = source.path, trace.tb_lineno
        trace = trace.tb_next
    yield Place(
        _innermost(tape),
        f"{rows} rows pass, {rows + 1} do not: {type(error).__name__}: "
        + str(error).splitlines()[0],
        file,
        line,
        None if experiment.batched else "info",
    )


def _innermost(tape: Tape) -> str:
    """The module that was running when the run ended: the last that began and did not end."""
    open_ = [visit for visit in tape.visits if not visit.done]
    return open_[-1].path if open_ else ""


RULE = Rule(
    name="fixed-batch",
    severity="warning",
    what="A forward that takes batches of one size only. Needs the specification, with its batch "
    "axis named (ch.spec('batch', 20)) where it is not plain.",
    why="The last batch of an epoch is smaller, and so is a single sample: the run ends there.",
    mend="Write x.shape[0], or -1, where the size of the batch stands.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x.view(2, 20))


spec = ch.spec(2, 4, 5)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x.view(-1, 20))


spec = ch.spec(2, 4, 5)
""",
    find=find,
)
