"""Steps whose gradient is zero everywhere."""

import math
from collections.abc import Iterable, Iterator

from chimera.check.context import Context
from chimera.check.operations import Op, Value
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape

_FLAT = frozenset(("round", "floor", "ceil", "trunc", "sign", "sgn", "heaviside", "fix"))
_NORMS = frozenset(("layer_norm", "group_norm", "instance_norm"))
_SOFTMAX = frozenset(("softmax", "log_softmax", "softmin", "gumbel_softmax"))


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None or not experiment.gradients:
        return
    tape, gradients = experiment.training, experiment.gradients
    still = {
        name
        for name, gradient in gradients.items()
        if gradient is not None and not gradient.count_nonzero()
    }
    wanted = tape.ancestors(tape.outputs)
    for op, reason in _flat(tape):
        if wanted.isdisjoint(op.outputs):
            continue
        before = tape.ancestors(op.inputs)
        names = [
            name
            for name, gradient in gradients.items()
            if tape.state[name] in before
            and gradient is not None
            and (name in still or (_rounds(op) and _ends_at(tape, tape.state[name], op)))
        ]
        if names:
            listed = ", ".join(f"`{name}`" for name in names[:4])
            more = f" and {len(names) - 4} more parameters" if len(names) > 4 else ""
            yield Place(
                op.path, f"{reason}: the gradient of {listed}{more} is zero", op.file, op.line
            )


def _flat(tape: Tape) -> Iterator[tuple[Op, str]]:
    """The operations that stop a gradient without a word, each with how."""
    for op in tape.ops:
        if not op.inputs or not op.outputs or not op.inputs[0].requires_grad:
            continue
        shape = op.outputs[0].shape
        if op.name.removesuffix("_") in _FLAT:
            yield op, f"{op.name} is flat: its slope is zero everywhere"
        elif op.name in _SOFTMAX:
            dim = op.argument("dim", 1)
            if isinstance(dim, int) and shape and shape[dim] == 1:
                yield op, f"{op.name} over an axis with one entry is always the same"
        elif op.name == "normalize":
            dim = op.argument("dim", 2, 1)
            if isinstance(dim, int) and len(shape) > dim and shape[dim] == 1:
                yield op, "normalize over an axis with one entry is always 1 or -1"
        elif op.name in _NORMS and _norms_one(op, shape):
            yield op, f"{op.name} over one entry is always the same"


def _rounds(op: Op) -> bool:
    """Whether rounding may leave something of a gradient that is zero."""
    return op.name in _NORMS or op.name == "normalize"


def _ends_at(tape: Tape, value: Value, op: Op) -> bool:
    """Whether all that is computed from a value goes through one operation to the output."""
    found, waiting = {value}, [value]
    while waiting:
        for reader in waiting.pop().readers:
            if reader is not op:
                new = [output for output in reader.outputs if output not in found]
                found.update(new)
                waiting.extend(new)
    return found.isdisjoint(tape.outputs)


def _norms_one(op: Op, shape: tuple[int, ...]) -> bool:
    """Whether each mean of a norm is one of a single number."""
    if op.name == "layer_norm":
        return all(size == 1 for size in op.argument("normalized_shape", 1, ()))
    inner = math.prod(shape[2:])
    if op.name == "group_norm":
        return inner == 1 and len(shape) > 1 and op.argument("num_groups", 1) == shape[1]
    return inner == 1 and len(shape) > 2


RULE = Rule(
    name="zero-gradient",
    severity="warning",
    what="round, floor or sign, a softmax or a norm over one entry, before which parameters get a "
    "gradient of zero. Needs the specification.",
    why="The graph is whole and nothing is raised, but what stands before such a step is never "
    "trained.",
    mend="Use a smooth function, or a straight-through estimate: x + (x.round() - x).detach(); "
    "for one output, sigmoid in the place of softmax.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 1)

    def forward(self, x):
        return self.linear(x).softmax(dim=1)


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 1)

    def forward(self, x):
        return self.linear(x).sigmoid()


spec = ch.spec(2, 20)
""",
    find=find,
)
