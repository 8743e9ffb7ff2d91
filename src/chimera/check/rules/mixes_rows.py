"""Outputs in which one sample depends on another."""

from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.operations import Op, Value, Visit
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_MENDS = {
    **dict.fromkeys(_RECURRENT, "Write batch_first=True, or give the time axis first."),
    "multi_head_attention_forward": "Write batch_first=True, or give the sequence axis first.",
    "softmax": "Write dim=-1 (or 1): over axis 0 the samples of a batch share one sum.",
    "log_softmax": "Write dim=-1 (or 1): over axis 0 the samples of a batch share one sum.",
    "view": "Use transpose or permute: a view only cuts the same order of numbers anew.",
    "reshape": "Use transpose or permute: reshape only cuts the same order of numbers anew.",
}


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.another_row is None:
        return
    one, other = experiment.another_row
    rows = experiment.rows
    if _way(one) != _way(other):
        return  # another branch was taken: what changed is the choice
    pairs = [
        (a, b)
        for a, b in zip(one.outputs, other.outputs, strict=True)
        if not _pairwise(one, a, rows)
    ]
    if not any(_changed(a, b) for a, b in pairs if a.shape[:1] == (rows,)):
        return
    severity: Severity | None = None if experiment.batched else "info"
    found = _operation(one, other, rows) or _visit(one, other, rows)
    if isinstance(found, Op):
        yield Place(
            found.path,
            f"{found.name} mixes the rows of the batch: the last output changes when only the "
            "first input does",
            found.file,
            found.line,
            severity,
            mend=_MENDS.get(found.name),
        )
    else:
        yield Place(
            found.path if found is not None else "",
            "the rows of the batch are mixed: the last output changes when only the first input "
            "does",
            severity=severity,
        )


def _way(tape: Tape) -> list[tuple[object, ...]]:
    """Which operations ran, where, and on which parameters and buffers."""
    names = {value: name for name, value in tape.state.items()}
    return [
        (op.name, op.path, op.file, op.line, *(names.get(value) for value in op.inputs))
        for op in tape.ops
    ]


def _pairwise(tape: Tape, value: Value, rows: int) -> bool:
    """Whether an output compares each row with each: the square product of two tensors that come
    of the inputs, scaled and moved. Other rows are what it is about."""
    if value.shape != (rows, rows):
        return False
    moved = {value for given in tape.inputs for value in tape.descendants(given)}
    waiting = [value]
    while waiting:
        op = waiting.pop().maker
        if op is None:
            continue
        if op.name in _SCALES:
            waiting += [part for part in op.inputs if part.shape == (rows, rows)]
        elif op.name in ("matmul", "mm") and moved.issuperset(op.inputs):
            return all(rows in part.shape for part in op.inputs)
    return False


_SCALES = frozenset(("t", "transpose", "mul", "div", "add", "sub", "clamp"))


def _changed(one: Value, other: Value) -> bool:
    """Whether the last row is another."""
    if one.row is None or other.row is None or not (one.finite and other.finite):
        return False
    return any(
        abs(a - b) > 1e-5 * max(abs(a), abs(b), 1e-3)
        for a, b in zip(one.row, other.row, strict=True)
    )


def _operation(one: Tape, other: Tape, rows: int) -> Op | None:
    """The first operation that has a row for each sample before and after, and mixes them."""
    moved = {value for given in one.inputs for value in one.descendants(given)}
    for a, b in zip(one.ops, other.ops, strict=True):
        inputs = [pair for pair in zip(a.inputs, b.inputs, strict=True) if pair[0] in moved]
        if not inputs or any(v.shape[:1] != (rows,) or _changed(v, w) for v, w in inputs):
            continue
        outputs = zip(a.outputs, b.outputs, strict=True)
        if any(v.shape[:1] == (rows,) and _changed(v, w) for v, w in outputs):
            return a
    return None


def _visit(one: Tape, other: Tape, rows: int) -> Visit | None:
    """The innermost module that has a row for each sample before and after, and mixes them."""
    found = None
    for a, b in zip(one.visits, other.visits, strict=True):
        inputs = list(zip(a.inputs, b.inputs, strict=True))
        outputs = zip(a.outputs, b.outputs, strict=True)
        if (
            inputs
            and all(v.shape[:1] == (rows,) and not _changed(v, w) for v, w in inputs)
            and any(v.shape[:1] == (rows,) and _changed(v, w) for v, w in outputs)
        ):
            found = a
    return found


RULE = Rule(
    name="mixes-rows",
    severity="warning",
    what="An output in which a sample depends on the others of its batch, in evaluation: a softmax "
    "over axis 0, a recurrent layer without batch_first, a view for a transpose. Needs the "
    "specification; name the batch axis (ch.spec('batch', 20)) where it is not plain.",
    why="A prediction depends on what else is in the batch; training leaks between samples.",
    mend="Compute each row for itself.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x).softmax(dim=0)


spec = ch.spec("batch", 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x).softmax(dim=1)


spec = ch.spec("batch", 20)
""",
    find=find,
)
