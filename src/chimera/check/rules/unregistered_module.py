"""Modules and parameters in plain containers, which ``nn.Module`` does not see."""

from collections.abc import Iterable

from torch import Tensor, nn

from chimera.check.attributes import CONTAINERS, ITSELF, held
from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import users

_MODES = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
)


def find(context: Context) -> Iterable[Place]:
    if context.root is None:
        return
    said: set[str] = set()
    for place in _kept(context):
        said.add(place.path)
        yield place
    yield from _used(context, said)


def _used(context: Context, said: set[str]) -> Iterable[Place]:
    """The trained tensors that a run reads and that nothing registers: of a global module, say."""
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    lines: set[tuple[str, str | None, int | None]] = set()
    # Attributes of a class, and what was computed from parameters, are other rules' business.
    modules = dict(context.modules)
    said = said | {path for path, module in context.modules if _explained(module)}
    tape = experiment.training
    # A closure over registered layers reads those of the network, not of the copy that runs.
    own = {p.untyped_storage().data_ptr() for p in experiment.net.parameters()}
    own.update(value.storage for value in tape.state.values())
    for op in tape.ops:
        key = (op.path, op.file, op.line)
        if op.path in said or op.path not in modules or key in lines:
            continue
        if any(v.foreign and not v.made and v.storage not in own for v in op.inputs):
            lines.add(key)
            yield Place(
                op.path,
                f"{op.name} reads a trained tensor that the network does not know",
                op.file,
                op.line,
                mend="Hand the module or parameter to the constructor, and set it on self.",
            )


def _explained(module: nn.Module) -> bool:
    tensors = [t for _, _, found in held(module, Tensor) for t in found]
    parts = [value for kind in users(type(module)) for value in vars(kind).values()]
    return any(t.requires_grad for t in tensors) or any(
        isinstance(part, (nn.Module, nn.Parameter)) for part in parts
    )


def _kept(context: Context) -> Iterable[Place]:
    """What plain attributes keep."""
    assert context.root is not None
    registered = {id(module) for _, module in context.modules}
    parameters = {id(parameter) for parameter in context.root.parameters()}
    for path, module in context.modules:
        for name, words, children in held(module, nn.Module):
            lost = [child for child in children if id(child) not in registered]
            if lost:
                file, line = context.assigned(type(module), name)
                yield _place(path, name, words, lost, file, line)
        for name, words, found in held(module, nn.Parameter):
            alone = [parameter for parameter in found if id(parameter) not in parameters]
            if alone:
                file, line = context.assigned(type(module), name)
                yield Place(
                    path,
                    f"`{name}` ({words}) holds {_count(len(alone), 'parameter')}, unknown to "
                    f"{type(module).__name__}.parameters()",
                    file,
                    line,
                    mend=f"Use nn.ParameterList or nn.ParameterDict for `{name}`.",
                )


def _place(
    path: str, name: str, words: str, lost: list[nn.Module], file: str | None, line: int | None
) -> Place:
    kinds = ", ".join(type(child).__name__ for child in lost[:4])
    kinds += ", ..." if len(lost) > 4 else ""
    inside = [part for child in lost for part in child.modules()]
    tensors = [t for child in lost for t in (*child.parameters(), *child.buffers())]
    container = words in CONTAINERS or words == ITSELF
    matters = bool(tensors) or any(isinstance(part, _MODES) for part in inside)
    return Place(
        path,
        f"`{name}` ({words}) holds {_count(len(lost), 'module')} ({kinds}) that nothing "
        f"registers, with {_count(len({id(t) for t in tensors}), 'tensor')}",
        file,
        line,
        # An object of the user's own may be kept apart on purpose.
        severity=(None if container else "warning") if matters else "info",
        mend=f"Use nn.ModuleList, nn.ModuleDict or ch.Sequential for `{name}`.",
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


RULE = Rule(
    name="unregistered-module",
    severity="error",
    what="A module or parameter that is kept only in a plain list, tuple, dict, set, closure, "
    "lambda, bound method, functools.partial or object.",
    why="parameters(), state_dict(), .to() and train() do not reach it: it is not trained, not "
    "saved, not moved.",
    mend="Use nn.ModuleList, nn.ModuleDict, nn.ParameterList or ch.Sequential.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10)]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
""",
    find=find,
)
