"""Layers whose axes are not those of what they are given."""

from collections.abc import Iterable, Iterator

from torch import nn

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule
from chimera.check.tape import Op, Tape, through

_DROPOUTS = ((nn.Dropout1d, 3), (nn.Dropout2d, 4), (nn.Dropout3d, 5))
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    tape = experiment.training
    for visit in tape.visits:
        for kind, axes in _DROPOUTS:
            if type(visit.module) is kind and visit.inputs and len(visit.inputs[0].shape) < axes:
                shape = list(visit.inputs[0].shape)
                yield Place(
                    visit.path,
                    f"{kind.__name__} gets {shape}, {len(shape)} axes: it expects {axes}, the "
                    "channels second",
                    mend="Use nn.Dropout, or the dropout of that many axes.",
                )
    for op in tape.ops:
        for found, said, severity, mend in (*_cut_view(op), *_last_step(op, tape)):
            yield Place(found.path, said, found.file, found.line, severity, mend=mend)


def _cut_view(op: Op) -> Iterator[tuple[Op, str, Severity | None, str]]:
    """A view that gives the axes of its input in another order."""
    if op.name not in ("view", "reshape") or not op.outputs:
        return
    before, after = op.inputs[0].shape, op.outputs[0].shape
    large = [size for size in before if size > 1]
    if (
        before != after
        and sorted(before) == sorted(after)
        and [size for size in after if size > 1] != large
        and len(set(large)) == len(large)
    ):
        yield (
            op,
            f"{op.name} from {list(before)} to {list(after)} does not exchange the axes: it cuts "
            "the same order of numbers anew",
            None,
            "Use transpose or permute.",
        )


def _last_step(op: Op, tape: Tape) -> Iterator[tuple[Op, str, Severity | None, str]]:
    """``output[:, -1]`` of a recurrent network that runs in both directions."""
    if op.name != "__getitem__" or not op.inputs:
        return
    *_, value = through(op.inputs[0], frozenset(("dropout",)))
    maker = value.maker
    if maker is None or maker.name not in _RECURRENT or value is not maker.outputs[0]:
        return
    both, first = (maker.args[7], maker.args[8]) if len(maker.args) > 8 else (False, False)
    index = op.args[1] if isinstance(op.args[1], tuple) else (op.args[1],)
    time = 1 if first else 0
    if both and len(index) > time and len(op.inputs[0].shape) == 3 and _is_last(index[time]):
        wide = len(index) < 3 or index[2] == slice(None)
        if wide and op.inputs[0].shape[time] > 1:
            yield (
                op,
                "the last step of a bidirectional network: its backward half has seen one step",
                None,
                "Use the last state of each direction: torch.cat([h[-2], h[-1]], dim=1).",
            )


def _is_last(index: object) -> bool:
    return type(index) is int and index == -1


RULE = Rule(
    name="mistaken-axis",
    severity="warning",
    what="Dropout2d on three axes; a view that was meant to exchange axes; output[:, -1] of a "
    "bidirectional recurrent network. Needs the specification.",
    why="It runs, on other axes than those that were meant: features of different samples or steps "
    "are put together, or left out.",
    mend="Name the axes that are meant.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(20, 8, batch_first=True, bidirectional=True)
        self.out = nn.Linear(16, 5)

    def forward(self, x):
        output, _ = self.rnn(x)
        return self.out(output[:, -1])


spec = ch.spec(2, 7, 20)
""",
    after="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(20, 8, batch_first=True, bidirectional=True)
        self.out = nn.Linear(16, 5)

    def forward(self, x):
        _, state = self.rnn(x)
        return self.out(torch.cat([state[-2], state[-1]], dim=1))


spec = ch.spec(2, 7, 20)
""",
    find=find,
)
