"""Layers whose axes are not those of what they are given."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, permutations
from operator import mul

from torch import nn

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.operations import Op, through
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape

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
        for found, said, severity, mend in (*_cut_view(op), *_last_step(op), *_dropped(op, tape)):
            yield Place(found.path, said, found.file, found.line, severity, mend=mend)


def _cut_view(op: Op) -> Iterator[tuple[Op, str, Severity | None, str]]:
    """A view that gives the axes of its input in another order."""
    if op.name not in ("view", "reshape") or not op.outputs:
        return
    before, after = op.inputs[0].shape, op.outputs[0].shape
    if exchanged(before, after) or exchanged(after, before):
        yield (
            op,
            f"{op.name} from {list(before)} to {list(after)} does not exchange the axes: it cuts "
            "the same order of numbers anew",
            None,
            "Use transpose or permute.",
        )


def exchanged(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether ``after`` are the sizes that axes of ``before`` have in another order, some of them
    joined, and are no joining or cutting of axes where they stand."""
    old, new = ([size for size in shape if size > 1] for shape in (before, after))
    if not len(new) <= len(old) <= _MANY or _edges(new) <= _edges(old) or len(set(old)) == 1:
        return False
    if before[:1] != after[:1] and not sorted(old) == sorted(new) == sorted(set(old)):
        return False  # heads that join the batch may have such sizes by chance
    return any(_edges(new) <= _edges(order) for order in permutations(old))


_MANY = 6


def _edges(sizes: Sequence[int]) -> set[int]:
    """Where each axis ends, in the order of the numbers."""
    return set(accumulate(sizes, mul))


def _dropped(op: Op, tape: Tape) -> Iterator[tuple[Op, str, Severity | None, str]]:
    """dropout2d of three axes, called as a function."""
    wanted = {"dropout1d": 3, "dropout2d": 4, "dropout3d": 5}.get(op.name)
    if wanted is None or len(op.inputs[0].shape) >= wanted:
        return
    layers = {visit.path for visit in tape.visits if isinstance(visit.module, _LAYERS)}
    if op.path not in layers:
        shape = list(op.inputs[0].shape)
        said = (
            f"{op.name} gets {shape}, {len(shape)} axes: it expects {wanted}, the channels second"
        )
        yield op, said, None, "Use dropout, or the one of that many axes."


_LAYERS = tuple(kind for kind, _ in _DROPOUTS)


def _last_step(op: Op) -> Iterator[tuple[Op, str, Severity | None, str]]:
    """``output[:, -1]`` of a recurrent network that runs in both directions, or of one whose
    batch stands there."""
    if op.name not in ("__getitem__", "select") or not op.inputs:
        return
    *_, value = through(op.inputs[0], frozenset(("dropout",)))
    maker = value.maker
    if maker is None or maker.name not in _RECURRENT or value is not maker.outputs[0]:
        return
    both, first = (maker.args[7], maker.args[8]) if len(maker.args) > 8 else (False, False)
    index: tuple[object, ...]
    if op.name == "select":
        axis = op.argument("dim", 1)
        index = (*(slice(None) for _ in range(axis)), op.argument("index", 2))
    else:
        index = op.args[1] if isinstance(op.args[1], tuple) else (op.args[1],)
    time = 1 if first else 0
    if len(op.inputs[0].shape) != 3 or len(maker.inputs[0].shape) != 3:
        return
    batch = 1 - time
    whole = len(index) <= time or _is_whole(index[time])
    shape = op.inputs[0].shape
    if len(index) > batch and _is_last(index[batch], shape[batch]) and whole:
        yield (
            op,
            f"the last sample of the batch, not the last step: axis {batch} is the batch where "
            f"batch_first is {first}",
            None,
            "Write output[:, -1]." if first else "Write output[-1], or batch_first=True.",
        )
    elif both and len(index) > time and _is_last(index[time], shape[time]):
        wide = len(index) < 3 or _is_whole(index[2])
        if wide and op.inputs[0].shape[time] > 1:
            yield (
                op,
                "the last step of a bidirectional network: its backward half has seen one step",
                None,
                "Use the last state of each direction: torch.cat([h[-2], h[-1]], dim=1).",
            )


def _is_whole(index: object) -> bool:
    return index == slice(None)


def _is_last(index: object, size: int) -> bool:
    return type(index) is int and index in (-1, size - 1) and size > 1


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
