"""Layers that are built, but that no run uses."""

import inspect
from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule
from chimera.check.source import is_users
from chimera.check.tape import Tape
from chimera.paths.walk import join


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None or experiment.evaluation is None:
        return
    tapes = (experiment.training, experiment.evaluation)
    used = set().union(*map(_used, tapes))
    unused = {
        path: module
        for path, module in experiment.net.named_modules()
        if path not in used and any(True for _ in module.parameters())
    }
    yield from _idle(context, tapes)
    severity: Severity | None = None
    by_lot = any(tape.outside for tape in tapes)
    if by_lot or _has_more_arguments(experiment.net, len(experiment.tensors)):
        severity = "info"
    yield from _own_parameters(experiment.net, tapes, unused, severity)
    modules = dict(experiment.net.named_modules())
    for path, module in unused.items():
        above = path.rpartition(".")[0]
        if path and above in unused:
            continue
        holder = modules[above]
        chosen = isinstance(holder, (nn.ModuleList, nn.ModuleDict))
        yield Place(
            path,
            f"{type(module).__name__} is never used, with "
            f"{sum(p.numel() for p in module.parameters()):,} parameters"
            + (", in runs that draw by lot what they do" if by_lot else ""),
            # One of a list may be chosen by the data or by a setting.
            severity="info" if chosen else severity,
        )


def _own_parameters(
    net: nn.Module,
    tapes: tuple[Tape, Tape],
    unused: dict[str, nn.Module],
    severity: Severity | None,
) -> Iterable[Place]:
    """Parameters that nothing reads, of modules that are used otherwise."""
    for path, module in net.named_modules():
        if path in unused or type(module).__module__.startswith("torch."):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            full = join(path, name)
            values = [tape.state[full] for tape in tapes if full in tape.state]
            if values and not any(value.readers for value in values):
                yield Place(
                    path,
                    f"the parameter `{full}` {list(parameter.shape)} is never used",
                    severity=severity,
                )


def _idle(context: Context, tapes: tuple[Tape, Tape]) -> Iterable[Place]:
    """Activations, dropouts and the like, which hold nothing, that are built and never called."""
    assert context.experiment is not None
    net = context.experiment.net
    called = {visit.path for tape in tapes for visit in tape.visits}
    modules = dict(net.named_modules())
    for path, module in modules.items():
        above = path.rpartition(".")[0]
        holder = type(modules[above])
        if (
            path not in called
            and not isinstance(module, (nn.Identity, nn.modules.loss._Loss))
            and type(module).__module__.startswith("torch.nn.modules.")
            and not any(True for _ in (*module.parameters(), *module.buffers(), *module.children()))
            and above in called
            and is_users(holder)
        ):
            yield Place(
                path,
                f"{type(module).__name__} is never called",
                severity="info",
                why="What it was meant to do is not done.",
            )


def _used(tape: Tape) -> set[str]:
    """The paths that were called, and those at or below which something was read."""
    used = {visit.path for visit in tape.visits}
    for name, value in tape.state.items():
        while value.readers and name:
            name = name.rpartition(".")[0]
            used.add(name)
    return used


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
    what="A layer or parameter that the network builds and that neither training nor evaluation "
    "uses; an activation or dropout that is never called is worth knowing. Needs the "
    "specification.",
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
