"""Activations that explode or vanish at initialization."""

from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.operations import Value, Visit
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape

LARGE = 1e4
"""The root mean square above which activations explode, of inputs near 1."""

HUGE = 1e8
"""The same of what a layer inside gives, where a softmax, say, hides it from the output."""

DEAF = 1e-7
"""The part of a change of the input that comes to the output, below which nothing is heard."""

SMALL = 1e-5
"""The root mean square below which they vanish."""


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    # In evaluation the statistics of a fresh batch norm say nothing of what comes.
    tape = experiment.training
    sizes = [v.size for v in tape.outputs if v.dtype.is_floating_point and v.finite]
    given = [v.size for v in tape.inputs if v.dtype.is_floating_point]
    if not sizes or (given and not 1e-2 < max(given) < 1e2):
        return
    inner = [v.size for visit in tape.visits for v in visit.outputs if _counts(v)]
    large = max(sizes) > LARGE or max(inner, default=0.0) > HUGE
    # Exactly zero is a layer that starts at zero.
    if not large and not 0 < max(sizes) < SMALL:
        response = experiment.response
        if response is not None and 0 < response < DEAF:
            yield Place(
                "",
                "activations vanish: where the input changes, the output does by a part of "
                f"{response:.0e} of that",
                mend=_MEND,
            )
        return
    said = "grow" if large else "vanish"
    size = max(sizes) if not large or max(sizes) > LARGE else max(inner)
    of = "the output" if size == max(sizes) else "a layer's output"
    said = f"activations {said}: the root mean square of {of} is {size:.2g}"
    found = _first(tape, large)
    if found is not None:
        limit = LARGE if large else SMALL
        said += f"; this {type(found.module).__name__} is the first to pass {limit:g}"
    yield Place(
        found.path if found is not None else "",
        said,
        mend=_MEND,
    )


_MEND = "Draw weights by the width of the layer (nn.init.kaiming_normal_), or put a norm behind it."


def _counts(value: Value) -> bool:
    return value.dtype.is_floating_point and value.finite


def _first(tape: Tape, large: bool) -> Visit | None:
    """The first module without children that takes activations past the limit."""
    wanted = tape.ancestors(tape.outputs)
    for visit in tape.visits:
        if visit.module._modules or wanted.isdisjoint(visit.outputs):
            continue
        before = [v.size for v in visit.inputs if v.dtype.is_floating_point]
        after = [v.size for v in visit.outputs if v.dtype.is_floating_point and v.finite]
        if not before or not after:
            continue
        if large and max(after) > LARGE >= max(before):
            return visit
        if not large and 0 < max(after) < SMALL <= max(before):
            return visit
    return None


RULE = Rule(
    name="extreme-activations",
    severity="warning",
    what="A network at initialization whose output has a root mean square above 10,000 or below "
    "0.00001 at inputs near 1, or does not change when they do. Needs the specification.",
    why="The first gradients are as extreme: the loss overflows, or nothing is learned.",
    mend="Draw weights by the width of the layer, or put a norm behind it.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(64, 64) for _ in range(6)])
        for layer in self.layers:
            nn.init.normal_(layer.weight)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x


spec = ch.spec(8, 64)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(64, 64) for _ in range(6)])
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x


spec = ch.spec(8, 64)
""",
    find=find,
)
