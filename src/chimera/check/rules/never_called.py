"""Layers that are built, but that no run uses.

A run with numbers takes one way at each condition on data. The run without data took them all: what
it reached is used.
"""

import ast
import inspect
from collections.abc import Iterable

from torch import nn

from chimera.blocks.control import Cond, While
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
    elsewhere = _elsewhere(context, used)
    unused = {
        path: module
        for path, module in experiment.net.named_modules()
        if path not in used | elsewhere and any(True for _ in module.parameters())
    }
    yield from _idle(context, tapes)
    severity: Severity | None = None
    by_lot = any(tape.outside for tape in tapes)
    if by_lot or _has_more_arguments(experiment.net, len(experiment.tensors)):
        severity = "info"
    yield from _own_parameters(context, tapes, {*unused, *elsewhere}, severity)
    modules = dict(experiment.net.named_modules())
    for path, module in unused.items():
        above = path.rpartition(".")[0]
        if path and above in unused:
            continue
        holder = modules[above]
        if context.trial is None and isinstance(holder, (Cond, While)):
            continue
        chosen = isinstance(holder, (nn.ModuleList, nn.ModuleDict)) or (
            context.trial is None and _names(context, holder, path.rpartition(".")[2])
        )
        trial = context.trial
        if trial is not None and path in trial.in_vain:
            yield Place(
                path,
                f"{type(module).__name__} is only used where a condition on data leads to an "
                f"error: {type(trial.failed).__name__}: {trial.failed}",
                severity="info",
                why="If data come that take this way, the run ends there.",
                mend="Make it fit what it is given, or leave it out.",
            )
            continue
        yield Place(
            path,
            f"{type(module).__name__} is never used, with "
            f"{sum(p.numel() for p in module.parameters()):,} parameters"
            + (", in runs that draw by lot what they do" if by_lot else ""),
            # One of a list may be chosen by the data or by a setting; so may what forward names,
            # where no run without data tells which ways there are.
            severity="info" if chosen else severity,
        )


def _elsewhere(context: Context, used: set[str]) -> set[str]:
    """The paths that only the run without data came to, and the parts of torch's layers there,
    which those use without a call."""
    if context.trial is None or context.experiment is None:
        return set()
    found = context.trial.calls.keys() - used
    modules = context.experiment.net.named_modules()
    for path, module in [(path, module) for path, module in modules if path in found]:
        lists = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        if type(module).__module__.startswith("torch.nn.modules.") and not lists:
            found |= {join(path, name) for name, _ in module.named_modules() if name}
    return found


def _names(context: Context, holder: nn.Module, name: str) -> bool:
    """Whether what runs in a forward of ``holder`` names its part ``name``."""
    return any(
        method.attribute(node) == name
        for method in context.reached(type(holder), "forward")
        for node in ast.walk(method.node)
    )


def _own_parameters(
    context: Context, tapes: tuple[Tape, Tape], apart: set[str], severity: Severity | None
) -> Iterable[Place]:
    """Parameters that nothing reads, of modules that are used otherwise.

    Args:
        apart: the paths that no run with numbers uses.
    """
    assert context.experiment is not None
    asked = {c.path for c in context.trial.conditions} if context.trial is not None else set()
    for path, module in context.experiment.net.named_modules():
        if path in apart or type(module).__module__.startswith("torch."):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            full = join(path, name)
            values = [tape.state[full] for tape in tapes if full in tape.state]
            if values and not any(value.readers for value in values):
                yield Place(
                    path,
                    f"the parameter `{full}` {list(parameter.shape)} is never used",
                    # No call tells whether the other way at a condition reads it.
                    severity="info"
                    if path in asked and _names(context, module, name)
                    else severity,
                )


def _idle(context: Context, tapes: tuple[Tape, Tape]) -> Iterable[Place]:
    """Activations, dropouts and the like, which hold nothing, that are built and never called."""
    assert context.experiment is not None
    net = context.experiment.net
    called = {visit.path for tape in tapes for visit in tape.visits}
    ways = called if context.trial is None else called | context.trial.calls.keys()
    modules = dict(net.named_modules())
    for path, module in modules.items():
        above = path.rpartition(".")[0]
        holder = type(modules[above])
        if (
            path not in ways
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
