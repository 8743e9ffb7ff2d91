"""Control flow that depends on data."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from chimera.check.context import Context
from chimera.check.operations import Value
from chimera.check.rule import Place, Rule
from chimera.check.rules.does_not_run import AT
from chimera.decide.explore import DataNeeded

_OURS = str(Path(__file__).parents[2])
"""Our own blocks, such as While, ask for the caller who wants no graph."""


def find(context: Context) -> Iterable[Place]:
    if context.trial is None:
        yield from _of_failure(context)
        return
    yield from _shapes(context)
    for condition in context.trial.conditions:
        if condition.file.startswith(_OURS):
            continue
        file = context.sources.file(condition.file)
        text = file.line(condition.line).strip() if file is not None else "a condition"
        yield Place(
            condition.path or "",
            f"`{text}` depends on the data",
            condition.file,
            condition.line,
        )


def _of_failure(context: Context) -> Iterable[Place]:
    """Where a number was needed, as ``range(int(n))`` needs one."""
    error = context.failure
    if not isinstance(error, DataNeeded):
        return
    place = _LINE.match(str(error))
    at = AT.search("\n".join(getattr(error, "__notes__", ())))
    file = context.sources.file(place[1]) if place is not None else None
    line = int(place[2]) if place is not None else None
    text = file.line(line).strip() if file is not None and line is not None else "forward"
    yield Place(
        at[1] if at is not None and at[1] != "(root)" else "",
        f"`{text}` takes a number from the data",
        file.path if file is not None else None,
        line,
        mend="Take the number from the configuration, or run to a limit and mask.",
    )


def _shapes(context: Context) -> Iterable[Place]:
    """Operations whose result has as many entries as the data says."""
    if context.experiment is None or context.experiment.evaluation is None:
        return
    seen: set[tuple[str | None, int | None]] = set()
    for op in context.experiment.evaluation.ops:
        index = op.args[1] if op.name == "__getitem__" and len(op.args) > 1 else None
        parts = index if isinstance(index, tuple) else (index,)
        masked = any(isinstance(part, Value) and part.dtype == torch.bool for part in parts)
        if (masked or op.name in _SIZED) and (op.file, op.line) not in seen:
            seen.add((op.file, op.line))
            what = "an index of true and false" if masked else op.name
            yield Place(
                op.path,
                f"the shape of what {what} gives depends on the data",
                op.file,
                op.line,
                mend="Keep the shape: torch.where(mask, x, 0.0), or a sum weighted by the mask.",
            )


_LINE = re.compile(r"(.*?):(\d+) needs")
_SIZED = frozenset(("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"))


RULE = Rule(
    name="condition-on-data",
    severity="info",
    what="An if, while or assert on the values of a tensor, a number taken from them, an index "
    "that picks as many entries as they say. Needs the specification.",
    why="A device waits for the answer at each call; torch.export refuses it, torch.compile breaks "
    "the graph, CUDA graphs cannot hold it, and a Stack runs members that decide differently in "
    "parts.",
    mend="Use ch.While or ch.Cond, which run in one graph, where one of these matters.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        while x.abs().sum() > 1:
            x = x / 2
        return x


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


def is_large(x):
    return x.abs().sum() > 1


class Half(nn.Module):
    def forward(self, x):
        return x / 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.shrink = ch.While(is_large, Half(), limit=1000)

    def forward(self, x):
        return self.shrink(x)


spec = ch.spec(2, 20)
""",
    find=find,
)
