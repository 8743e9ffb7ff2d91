"""Inputs that the output does not depend on."""

import inspect
from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.operations import Value
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None or experiment.evaluation is None:
        return
    tapes = (experiment.training, experiment.evaluation)
    if any(tape.gaps for tape in tapes):
        return
    names = _names(experiment.net.forward, len(experiment.tensors))
    method = context.sources.method(type(experiment.net), "forward")
    for number in range(len(tapes[0].inputs)):
        values = [tape.inputs[number] for tape in tapes]
        if any(value in _read(tape) for value, tape in zip(values, tapes, strict=True)):
            continue
        # What is read as numbers may decide something; what is read in place, too.
        if any(not op.outputs or op.inplace for value in values for op in value.readers):
            continue
        yield Place(
            "",
            f"the output does not depend on {names[number]}",
            method.file.path if method is not None else None,
            method.node.lineno if method is not None else None,
        )


def _read(tape: Tape) -> set[Value]:
    """The values whose numbers the outputs depend on."""
    found = set(tape.outputs)
    waiting = list(tape.outputs)
    while waiting:
        maker = waiting.pop().maker
        if maker is None or maker.name in _LIKE:
            continue
        waiting += (new := set(maker.inputs) - found)
        found |= new
    return found


_LIKE = frozenset(
    ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
) | {"randint_like", "new_zeros", "new_ones", "new_empty", "new_full"}
"""Functions that take the shape, dtype and device of a tensor alone."""


def _names(forward: object, count: int) -> list[str]:
    """What the inputs are called; their numbers, where that is not plain."""
    try:
        arguments = list(inspect.signature(forward).parameters.values())  # type: ignore[arg-type]
    except (TypeError, ValueError):
        arguments = []
    plain = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    if len(plain) == len(arguments) == count:
        return [f"the input `{argument.name}`" for argument in plain]
    return [f"input {number}" for number in range(count)]


RULE = Rule(
    name="input-unused",
    severity="warning",
    what="An input tensor that the output does not depend on, in training or evaluation. Needs "
    "the specification.",
    why="What was meant to be learned from is not looked at; often one variable was written for "
    "another.",
    mend="Use the input, or do not take it.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(20, 5)
        self.b = nn.Linear(20, 5)

    def forward(self, x, y):
        return self.a(x) + self.b(x)


spec = ch.inputs(ch.spec(2, 20), ch.spec(2, 20))
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(20, 5)
        self.b = nn.Linear(20, 5)

    def forward(self, x, y):
        return self.a(x) + self.b(y)


spec = ch.inputs(ch.spec(2, 20), ch.spec(2, 20))
""",
    find=find,
)
