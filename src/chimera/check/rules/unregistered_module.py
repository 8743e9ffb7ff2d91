"""Modules and parameters in plain containers, which ``nn.Module`` does not see."""

from collections.abc import Iterable

from torch import nn

from chimera.check.attributes import CONTAINERS, ITSELF, held
from chimera.check.context import Context
from chimera.check.rule import Place, Rule

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
