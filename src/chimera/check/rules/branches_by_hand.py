"""Branches that run one after another and are concatenated."""

from collections.abc import Iterable

from chimera.blocks import Parallel
from chimera.check.context import Context
from chimera.check.operations import Op, Value, Visit
from chimera.check.rule import Place, Rule

_JOINS = ("cat", "concat", "concatenate", "stack", "hstack")
Chain = list[Visit | Op]
"""What happens to the input on the way to one of the joined values, in order."""
_ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid", "dropout")


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    tape = experiment.evaluation
    calls: dict[tuple[str, object], Visit] = {}
    seen: set[str] = set()
    for visit in tape.visits:
        if visit.above is not None and len(visit.outputs) == 1:
            calls[visit.above.path, visit.outputs[0]] = visit
    modules = dict(experiment.net.named_modules())
    for op in tape.ops:
        if op.name not in _JOINS or op.path in seen or len(op.inputs) < 2:
            continue
        if isinstance(modules.get(op.path), Parallel):
            continue
        chains = _chains(op, calls)
        if chains:
            seen.add(op.path)
            combine = "stack" if op.name == "stack" else "concat"
            dim = 1 if op.name == "hstack" else op.argument("dim", 1, 0)
            inner = ", ".join(_written(chain, op.path) for chain in chains)
            ends = [c[-1].path if isinstance(c[-1], Visit) else c[-1].name for c in chains]
            yield Place(
                op.path,
                f"{len(chains)} branches run on one input, one after another, and {op.name} joins "
                "them: " + ", ".join(f"`{end}`" for end in ends),
                op.file,
                op.line,
                mend=f'Write ch.Parallel({inner}, combine="{combine}", dim={dim}).',
            )


def _chains(op: Op, calls: dict[tuple[str, object], Visit]) -> list[Chain]:
    """The branches that ``op`` joins, each a chain from one common input; empty where not so.

    Two of them at least have a module of their own.
    """
    found = [_chain(value, op, calls) for value in op.inputs]
    chains, origins = [chain for chain, _ in found], [origin for _, origin in found]
    shared = _shared(chains)
    chains = [chain[shared:] for chain in chains]
    modules = [step.module for chain in chains for step in chain if isinstance(step, Visit)]
    alone = len({id(module) for module in modules}) == len(modules)
    owned = all(chains) and sum(any(isinstance(s, Visit) for s in c) for c in chains) > 1
    same = all(origin == origins[0] for origin in origins)
    return chains if same and alone and owned else []


def _chain(
    value: Value, op: Op, calls: dict[tuple[str, object], Visit]
) -> tuple[Chain, tuple[Value, ...]]:
    """What led to ``value`` in the module of ``op``, and what that began with."""
    chain: Chain = []
    while True:
        step = calls.get((op.path, value)) or value.maker
        if step is None or not (isinstance(step, Visit) or step.path == op.path):
            return chain, (value,)
        if value in step.inputs or not (isinstance(step, Visit) or _is_layer(step)):
            return chain, (value,)
        chain.insert(0, step)
        if len(step.inputs) != 1:
            return chain, step.inputs
        value = step.inputs[0]


def _is_layer(op: Op) -> bool:
    """Whether a function is one that a layer of torch does: with one tensor, and no other."""
    return len(op.inputs) == 1 and ("_pool" in op.name or op.name in _ACTIVATIONS)


def _shared(chains: list[Chain]) -> int:
    """How many first steps all chains have in common: they come before the branches."""
    shortest = min(len(chain) for chain in chains)
    for i in range(shortest):
        if any(chain[i] is not chains[0][i] for chain in chains):
            return i
    return shortest


def _written(chain: Chain, path: str) -> str:
    """A branch as one writes it."""
    steps = [
        f"self.{step.path.removeprefix(f'{path}.')}"
        if isinstance(step, Visit)
        else f"<{step.name} as a module>"
        for step in chain
    ]
    return steps[0] if len(steps) == 1 else f"ch.Sequential({', '.join(steps)})"


RULE = Rule(
    name="branches-by-hand",
    severity="info",
    what="Several children, or chains of them, that run on the same input and whose outputs are "
    "concatenated or stacked. Needs the specification.",
    why="ch.Parallel says so in one line, and branches of one structure can then run as one.",
    mend="Use ch.Parallel; ch.to_parallel converts what is exactly children of one input, joined.",
    before="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(20, 5)
        self.b = nn.Linear(20, 5)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], dim=1)


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.both = ch.Parallel(nn.Linear(20, 5), nn.Linear(20, 5), combine="concat", dim=1)

    def forward(self, x):
        return self.both(x)


spec = ch.spec(2, 20)
""",
    find=find,
)
