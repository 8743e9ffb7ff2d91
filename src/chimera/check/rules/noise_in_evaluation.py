"""Noise, or a mask drawn by lot, that evaluation gets too."""

from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.operations import Op, Value
from chimera.check.rule import Place, Rule

_DRAWS = frozenset(("rand", "randn", "rand_like", "randn_like", "normal", "bernoulli", "randint"))
_FILLS = frozenset(("normal_", "uniform_", "bernoulli_"))
_COMPARES = frozenset(("gt", "lt", "ge", "le", "floor", "floor_", "round", "bernoulli"))
_KEEPS = frozenset(
    (
        *("mul", "mul_", "__rmul__", "div", "div_", "neg", "sub", "sub_", "__rsub__", "add"),
        *("add_", "__radd__", "float", "double", "half", "bool", "to", "type", "type_as", "int"),
        *("long", "view", "reshape", "unsqueeze", "squeeze", "expand", "expand_as", "clone"),
        *("contiguous", "bitwise_not", "__invert__", "logical_not"),
    )
)
_SUMS = frozenset(("add", "add_", "__radd__", "__iadd__", "sub", "sub_", "__isub__"))
_MASKS = frozenset(("mul", "mul_", "__rmul__", "__imul__", "masked_fill", "masked_fill_", "where"))


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    tape = experiment.evaluation
    if tape.outside:
        yield Place(
            "",
            f"forward draws from {' and '.join(tape.outside)} in evaluation, too: no draw asks "
            "self.training",
        )
    noise: set[Value] = set()
    masks: set[Value] = set()
    data = set(tape.inputs)
    for op in tape.ops:
        drawn = noise | masks
        if _around_the_input(op, data):
            yield Place(
                op.path,
                "noise of a fixed size is drawn around what comes from the input, in evaluation, "
                "too: no draw asks self.training",
                op.file,
                op.line,
            )
        if op.name in _DRAWS or op.name in _FILLS:
            mask = op.name.startswith("bernoulli")
            # A distribution around what was computed is sampled, which may be meant.
            if op.name not in ("normal", "bernoulli") or data.isdisjoint(op.inputs):
                (masks if mask else noise).update(op.outputs)
        elif op.inputs and drawn.issuperset(op.inputs) and op.name in _KEEPS | _COMPARES:
            mask = op.name in _COMPARES or not masks.isdisjoint(op.inputs)
            (masks if mask else noise).update(op.outputs)
        else:
            found = _meets(op, noise, masks, data)
            if found is not None:
                yield Place(op.path, found, op.file, op.line)
            if not (op.name.endswith("_like") or data.isdisjoint(op.inputs)):
                data.update(value for value in op.outputs if value.dtype.is_floating_point)


def _around_the_input(op: Op, data: set[Value]) -> bool:
    """``torch.normal(x, 0.1)``; a deviation that is computed makes it a sample, which may be
    meant."""
    fixed = isinstance(op.argument("std", 1), (int, float))
    return op.name == "normal" and fixed and not data.isdisjoint(op.inputs)


def _meets(op: Op, noise: set[Value], masks: set[Value], data: set[Value]) -> str | None:
    """What happens to what comes from the input, where noise or a mask meets it."""
    if data.isdisjoint(op.inputs):
        return None
    if op.name in _SUMS and not noise.isdisjoint(op.inputs):
        return "noise is added in evaluation, too: no draw asks self.training"
    if op.name in _MASKS and not masks.isdisjoint(op.inputs):
        return "a mask drawn by lot is applied in evaluation, too: no draw asks self.training"
    return None


RULE = Rule(
    name="noise-in-evaluation",
    severity="warning",
    what="Noise of a fixed size that is added, or a mask drawn by lot that is applied, whether the "
    "network is trained or not. Needs the specification.",
    why="A prediction is another each time, and worse than it could be.",
    mend="Draw where self.training is true alone; nn.Dropout does so for a mask.",
    before="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(20, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = x + 0.1 * torch.randn_like(x)
        return self.out(torch.relu(self.hidden(x)))


spec = ch.spec("batch", 20)
""",
    after="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(20, 16), nn.Linear(16, 5)

    def forward(self, x):
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        return self.out(torch.relu(self.hidden(x)))


spec = ch.spec("batch", 20)
""",
    find=find,
)
