"""A size of the batch that is written into the network."""

import math
from collections.abc import Iterable

from chimera.check.context import Context, blamed
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None or experiment.rows < 2:
        if context.only:
            yield Place("", f"only batches of {context.only} pass", severity="error")
        return
    rows = experiment.rows
    tape, error = experiment.with_rows(rows + 1)
    if error is None:
        yield from _cut_anew(experiment.evaluation, tape, rows)
        return
    # A multiple may still pass: an even batch, say.
    double, failed = experiment.with_rows(2 * rows)
    if failed is None and any(value.shape[:1] == (2 * rows,) for value in double.outputs):
        return
    file, line = blamed(error)
    yield Place(
        _innermost(tape),
        f"{rows} rows pass, {rows + 1} do not: {type(error).__name__}: "
        + str(error).splitlines()[0],
        file,
        line,
        "error" if context.only else None if experiment.batched else "info",
    )


def _cut_anew(whole: Tape, more: Tape, rows: int) -> Iterable[Place]:
    """An output whose numbers follow the batch, but not its rows."""
    for one, other in zip(whole.outputs, more.outputs, strict=False):
        sizes = math.prod(one.shape), math.prod(other.shape)
        if one.shape[:1] == other.shape[:1] == (rows,) and sizes[0] * (rows + 1) == sizes[1] * rows:
            maker = one.maker
            yield Place(
                maker.path if maker is not None else "",
                f"{rows} rows give an output {list(one.shape)}, and {rows + 1} rows one "
                f"{list(other.shape)}",
                maker.file if maker is not None else None,
                maker.line if maker is not None else None,
            )
            return


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
