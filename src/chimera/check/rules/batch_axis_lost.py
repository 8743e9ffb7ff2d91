"""A batch axis that a squeeze or a concatenation takes away."""

from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.experiment import Experiment
from chimera.check.operations import Op
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape

_JOINS = ("cat", "concat", "concatenate", "vstack")


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    whole, rows = experiment.evaluation, experiment.rows
    if rows < 2 or not (experiment.batched or _sample_axis_is_first(whole, rows)):
        return
    single, error = experiment.with_rows(1)
    op = _squeezed(whole, single, rows)
    differ = [
        a
        for a, b in zip(whole.outputs, single.outputs, strict=False)
        if len(a.shape) != len(b.shape)
    ]
    if op is not None and (error is not None or differ):
        yield Place(
            op.path,
            f"{op.name} takes the batch axis away where the batch has one row"
            + (f", and forward then raises {type(error).__name__}" if error is not None else ""),
            op.file,
            op.line,
            mend="Name the axis: squeeze(-1), or flatten(1).",
        )
    yield from _reduced(experiment, whole, rows)
    for op in _joined(whole, rows):
        yield Place(
            op.path,
            f"{op.name} joins along axis 0: {rows} rows become {op.outputs[0].shape[0]}, and the "
            "output has more rows than the input",
            op.file,
            op.line,
            mend="Write dim=1 (or -1): without dim the rows of the batch are put one after "
            "another.",
        )


def _reduced(experiment: Experiment, whole: Tape, rows: int) -> Iterable[Place]:
    """A step after which nothing has a row for each sample, where outputs are no single numbers."""
    if not experiment.free or any(not value.shape for value in whole.outputs):
        return
    more, error = experiment.with_rows(rows + 1)
    if error is not None or [v.shape for v in more.outputs] != [v.shape for v in whole.outputs]:
        return
    wanted = whole.ancestors(whole.outputs)
    moved = {value for given in whole.inputs for value in whole.descendants(given)}
    for op, other in zip(whole.ops, more.ops, strict=False):
        if op.name != other.name:
            return
        before = [v for v in op.inputs if v in moved and v.shape[:1] == (rows,)]
        after = [value.shape for value in op.outputs]
        same = after == [value.shape for value in other.outputs]
        if before and same and not wanted.isdisjoint(op.outputs):
            yield Place(
                op.path,
                f"{op.name} takes the batch axis away: {rows} samples go in as "
                f"{list(before[0].shape)}, and {list(after[0])} comes out",
                op.file,
                op.line,
                mend="Name the axis that is meant: dim=1, or x[:, 0].",
            )
            return


def _sample_axis_is_first(tape: Tape, rows: int) -> bool:
    return any(value.shape[:1] == (rows,) for value in tape.outputs)


def _squeezed(whole: Tape, single: Tape, rows: int) -> Op | None:
    """The operation that removes axes from one row that it does not remove from several."""
    for a, b in zip(whole.ops, single.ops, strict=False):
        if a.name != b.name:
            return None
        if a.name == "squeeze" and len(a.outputs[0].shape) != len(b.outputs[0].shape):
            return a if a.inputs[0].shape[:1] == (rows,) else None
    return None


def _joined(tape: Tape, rows: int) -> Iterable[Op]:
    more = {v.shape[0] for v in tape.outputs if v.shape and v.shape[0] != rows}
    made = tape.ancestors(tape.outputs)
    for op in tape.ops:
        if op.name in _JOINS and made.issuperset(op.outputs):
            dim = 0 if op.name == "vstack" else op.argument("dim", 1, 0)
            inputs = [value for value in op.inputs if value.name is None]
            if (
                dim in (0, -len(op.outputs[0].shape))
                and len(inputs) > 1
                and all(value.shape[:1] == (rows,) for value in inputs)
                and op.outputs[0].shape[0] in more
            ):
                yield op


RULE = Rule(
    name="batch-axis-lost",
    severity="warning",
    what="squeeze() without an axis, which also removes the batch axis of a single sample; cat "
    "without dim, which joins batches; a mean or an index over the batch axis, where the "
    "specification names it. Needs the specification.",
    why="The last batch of an epoch, or the one sample of a prediction, gets another shape: it "
    "raises there, or broadcasts against the target and trains on nonsense.",
    mend="Name the axis.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 1)

    def forward(self, x):
        return self.linear(x).squeeze()


spec = ch.spec("batch", 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 1)

    def forward(self, x):
        return self.linear(x).squeeze(-1)


spec = ch.spec("batch", 20)
""",
    find=find,
)
