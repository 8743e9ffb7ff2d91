"""Parameters that no gradient reaches, with the reason."""

from collections.abc import Iterable

import torch
from torch import nn

from chimera.check.context import Context
from chimera.check.operations import LEAVING, Op
from chimera.check.rule import Place, Rule
from chimera.check.tape import Tape
from chimera.paths.walk import join


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    tape = experiment.training
    yield from _frozen(experiment.net)
    trained = [name for name, p in experiment.net.named_parameters() if p.requires_grad]
    found = experiment.gradients
    if experiment.backward is not None:
        error = experiment.backward
        yield Place(
            "",
            f"no gradient reaches any parameter: the backward pass raises {type(error).__name__}: "
            f"{error}",
            severity="error",
            mend="Change nothing in place that a gradient needs: h = h + 1 in the place of h += 1.",
        )
        return
    missed = [name for name in trained if found is None or found.get(name) is None]
    # Those that nothing reads are the business of never-called.
    used = [name for name in missed if tape.state[name].readers]
    losses: dict[Op, list[str]] = {}
    unused: dict[str, list[str]] = {}
    wanted = tape.ancestors(tape.outputs)
    for name in used:
        op = _loss(tape, name)
        if op is not None and (not wanted.isdisjoint(op.outputs) or _leaves(tape, op)):
            losses.setdefault(op, []).append(name)
        elif not tape.gaps:
            unused.setdefault(name.rpartition(".")[0], []).append(name)
    for op, names in losses.items():
        yield Place(
            op.path,
            f"no gradient reaches {_listed(names)}: {_reason(op)}",
            op.file,
            op.line,
            severity="error" if found is None else None,
        )
    for path, names in unused.items():
        yield Place(
            path,
            f"no gradient reaches {_listed(names)}: what is computed with it is not used for the "
            "output",
            mend="Use the result of the layer: the wrong variable may have been passed on.",
        )


def _frozen(net: nn.Module) -> Iterable[Place]:
    """The topmost modules of which every parameter is frozen, and frozen parameters beside."""
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    said: list[str] = []
    for path, module in net.named_modules():
        if any(path == above or path.startswith(f"{above}.") or not above for above in said):
            continue
        names = [join(path, name) for name, _ in module.named_parameters()]
        own = [join(path, name) for name, _ in module.named_parameters(recurse=False)]
        if names and frozen.issuperset(names):
            said.append(path)
            yield Place(
                path,
                f"all {len(names)} parameters are frozen (requires_grad is False)",
                severity="info" if path else None,
                mend="Nothing, if it is meant. Else leave requires_grad as it is.",
            )
        elif frozen.intersection(own):
            listed = _listed([name for name in own if name in frozen])
            yield Place(
                path,
                f"frozen (requires_grad is False): {listed}",
                severity="info",
                mend="Nothing, if it is meant. Else leave requires_grad as it is.",
            )


def _loss(tape: Tape, name: str) -> Op | None:
    """The first operation after a parameter whose result has no gradient, one that matters for
    the output if there is one."""
    wanted = tape.ancestors(tape.outputs)
    ends = [
        op
        for value in tape.descendants(tape.state[name])
        if value.requires_grad
        for op in value.readers
        if not any(output.requires_grad for output in op.outputs)
    ]
    ends.sort(key=lambda op: (wanted.isdisjoint(op.outputs), op.name not in LEAVING, op.index))
    return ends[0] if ends else None


def _leaves(tape: Tape, op: Op) -> bool:
    """Whether the result is taken out of torch: what comes back is not known to be its."""
    after = {reader for o in op.outputs for v in tape.descendants(o) for reader in v.readers}
    return any(reader.name in LEAVING for reader in (op, *after))


def _reason(op: Op) -> str:
    if op.name in ("detach", "detach_", "data"):
        return "the result is detached"
    if op.name in LEAVING:
        return f"{op.name}() leaves torch"
    if op.name in ("argmax", "argmin", "argsort"):
        return f"{op.name} gives indices, which have no gradient"
    if not op.grad:
        return f"{op.name} runs without gradients (torch.no_grad)"
    kinds = {output.dtype for output in op.outputs}
    if torch.bool in kinds:
        return f"{op.name} gives true or false, which have no gradient"
    if not any(kind.is_floating_point or kind.is_complex for kind in kinds):
        return f"{op.name} gives integers, which have no gradient"
    return f"the result of {op.name} has none"


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:4])
    return shown + (f" and {len(names) - 4} more parameters" if len(names) > 4 else "")


RULE = Rule(
    name="no-gradient",
    severity="warning",
    what="Parameters that are used, but that no gradient of the output reaches: what is computed "
    "with them is detached, cast to integers, taken to numpy, run under no_grad, or never used; "
    "frozen ones are worth knowing. Needs the specification.",
    why="They stay what they were at initialization, silently; the network trains without them.",
    mend="Let the gradient through, or freeze the parameters (requires_grad_(False)) if that is "
    "meant.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, 16)
        self.out = nn.Linear(16, 5)

    def forward(self, x):
        return self.out(self.hidden(x).detach())


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, 16)
        self.out = nn.Linear(16, 5)

    def forward(self, x):
        return self.out(self.hidden(x))


spec = ch.spec(2, 20)
""",
    find=find,
)
