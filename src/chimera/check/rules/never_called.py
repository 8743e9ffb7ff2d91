"""Layers that are built, but that no run uses."""

import inspect
from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None or experiment.evaluation is None:
        return
    tapes = (experiment.training, experiment.evaluation)
    unused = {
        path: module
        for path, module in experiment.net.named_modules()
        if any(True for _ in module.parameters()) and not any(_used(t, path) for t in tapes)
    }
    severity: Severity | None = None
    if _has_more_arguments(experiment.net, len(experiment.tensors)):
        severity = "info"
    for path, module in unused.items():
        above = path.rpartition(".")[0]
        if path and above in unused:
            continue
        holder = experiment.net.get_submodule(above)
        chosen = isinstance(holder, (nn.ModuleList, nn.ModuleDict))
        file, line = context.assigned(type(holder), path.rpartition(".")[2])
        yield Place(
            path,
            f"{type(module).__name__} is never used, with "
            f"{sum(p.numel() for p in module.parameters()):,} parameters",
            file,
            line,
            # One of a list may be chosen by the data or by a setting.
            "info" if chosen else severity,
        )


def _used(tape: Tape, path: str) -> bool:
    if any(visit.path == path for visit in tape.visits):
        return True
    prefix = f"{path}." if path else ""
    return any(value.readers for name, value in tape.state.items() if name.startswith(prefix))


def _has_more_arguments(net: nn.Module, given: int) -> bool:
    """Whether forward takes inputs that were not given: other layers may serve those."""
    try:
        arguments = inspect.signature(net.forward).parameters.values()
    except (TypeError, ValueError):
        return True
    return len([a for a in arguments if a.kind is not a.VAR_KEYWORD]) > given


RULE = Rule(
    name="never-called",
    severity="warning",
    what="A layer with parameters that the network builds and that neither training nor evaluation "
    "uses. Needs the specification.",
    why="It takes memory and is saved, but it does nothing; the layer that was meant to run there "
    "is missing from the computation. DistributedDataParallel stops at such parameters.",
    mend="Call it in forward, or do not build it.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, 20)
        self.norm = nn.LayerNorm(20)
        self.out = nn.Linear(20, 5)

    def forward(self, x):
        return self.out(self.hidden(x).relu())


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, 20)
        self.norm = nn.LayerNorm(20)
        self.out = nn.Linear(20, 5)

    def forward(self, x):
        return self.out(self.norm(self.hidden(x)).relu())


spec = ch.spec(2, 20)
""",
    find=find,
)
