"""A forward that raises on the inputs that were specified."""

import re
from collections.abc import Iterable

from torch import nn

from chimera.build.spec import Spec
from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule
from chimera.decide.explore import DataNeeded, DidNotEnd

AT = re.compile(r"^in the module at (.*?): ", re.MULTILINE)
LINE = re.compile(r"^  line: (.*):(\d+)", re.MULTILINE)
_MEND = re.compile(r"^  mend: (.*)$", re.MULTILINE)


def find(context: Context) -> Iterable[Place]:
    trial, error = context.trial, context.failure
    # What needs data cannot be told from shapes: that is no mistake.
    if trial is None and error is not None and not isinstance(error, DataNeeded):
        if isinstance(error, DidNotEnd):
            yield _endless(error, f"on {context.spec}", "warning")
        else:
            yield _place(error, f"on {context.spec}", "error")
        return
    experiment = context.experiment
    if experiment is None or (experiment.evaluation and experiment.training):
        return
    if experiment.failure is not None:
        # Numbers of ours may be none that the network takes; those of an example are its own.
        leaves = context.spec.leaves() if context.spec is not None else []
        given = not any(isinstance(leaf, Spec) for leaf in leaves)
        what = "on the example" if given else "on random numbers, so that some rules did not look"
        if isinstance(experiment.failure, DidNotEnd):
            what = "on the example" if given else "on random numbers"
            yield _endless(experiment.failure, what, "warning" if given else "info")
            return
        yield _place(experiment.failure, what, "error" if given else "info")


_LAYER = re.compile(r"must be Tensor, not (\w+)$", re.MULTILINE)
"""What torch says of a layer in the place of its result: nn.GELU(x) for nn.GELU()(x)."""

_CAME = re.compile(r"^  (came|wanted):(.*(?:\n    .*)*)", re.MULTILINE)
"""What the note says of inputs: in its line, or indented in lines of their own."""


def _endless(error: DidNotEnd, on: str, severity: Severity) -> Place:
    return Place(
        "",
        f"forward comes to no end {on}, so that some rules did not look: {error}",
        error.file,
        error.line,
        severity,
        mend="Bound the loop: for _ in range(most), with a break, or ch.While(..., limit=most).",
    )


def _place(error: Exception, on: str, severity: Severity) -> Place:
    note = "\n".join(getattr(error, "__notes__", ()))
    at, line, mend = AT.search(note), LINE.search(note), _MEND.search(note)
    path = at[1] if at is not None and at[1] != "(root)" else ""
    text = f"forward raises {type(error).__name__} {on}: {error}"
    came = [
        f"{name}: {', '.join(part.strip() for part in said.strip().splitlines())}"
        for name, said in _CAME.findall(note)
    ]
    return Place(
        path,
        "; ".join([text, *came]),
        line[1] if line is not None else None,
        int(line[2]) if line is not None else None,
        severity,
        mend=f"{mend[1][0].upper()}{mend[1][1:]}." if mend is not None else _called(error),
    )


def _called(error: Exception) -> str | None:
    """The mend for a layer of torch that was made where it was to be called."""
    said = _LAYER.search(str(error))
    kind = getattr(nn, said[1], None) if said is not None else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return None
    name = kind.__name__
    return (
        f"nn.{name}(...) makes a layer; make it in the constructor, self.layer = nn.{name}(), and "
        "call it in forward: self.layer(x)."
    )


RULE = Rule(
    name="does-not-run",
    severity="error",
    what="A forward that raises on inputs of the shapes and dtypes given, or on the examples. "
    "Needs the specification.",
    why="The run would end there, after data were loaded and hardware was paid for.",
    mend="Make the sizes of the layers meet, or give the specification of what really comes.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(20, 16), nn.ReLU(), nn.Linear(10, 5))


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5))


spec = ch.spec(2, 20)
""",
    find=find,
)
