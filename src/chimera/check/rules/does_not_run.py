"""A forward that raises on the inputs that were specified."""

import re
from collections.abc import Iterable

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.decide.explore import DataNeeded

AT = re.compile(r"^in the module at (.*?): ", re.MULTILINE)
LINE = re.compile(r"^  line: (.*):(\d+)", re.MULTILINE)
_MEND = re.compile(r"^  mend: (.*)$", re.MULTILINE)


def find(context: Context) -> Iterable[Place]:
    if context.trial is not None or context.failure is None:
        return
    error = context.failure
    # What needs data cannot be told from shapes: that is no mistake.
    if isinstance(error, DataNeeded):
        return
    note = "\n".join(getattr(error, "__notes__", ()))
    at, line, mend = AT.search(note), LINE.search(note), _MEND.search(note)
    path = at[1] if at is not None and at[1] != "(root)" else ""
    text = f"forward raises {type(error).__name__} on {context.spec}: {error}"
    came = [part.strip() for part in note.splitlines() if part.startswith(("  came", "  wanted"))]
    yield Place(
        path,
        "; ".join([text, *came]),
        line[1] if line is not None else None,
        int(line[2]) if line is not None else None,
        mend=f"{mend[1][0].upper()}{mend[1][1:]}." if mend is not None else None,
    )


RULE = Rule(
    name="does-not-run",
    severity="error",
    what="A forward that raises on inputs of the shapes and dtypes given. Needs the specification.",
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
