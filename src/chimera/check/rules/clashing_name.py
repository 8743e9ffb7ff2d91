"""Names that nn.Module has taken."""

from collections.abc import Iterable, Iterator

from torch import nn

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule
from chimera.paths.structure import own_attributes


def find(context: Context) -> Iterable[Place]:
    for path, module in context.modules:
        for name, said, severity in _clashes(module):
            file, line = context.assigned(type(module), name)
            yield Place(
                path,
                f"`{name}` {said}",
                file,
                line,
                severity,
                mend=f"Call it something else, such as `{name}_layer`."
                if severity == "error"
                else f"Call it something else, such as `my_{name}`.",
            )


def _clashes(module: nn.Module) -> Iterator[tuple[str, str, Severity]]:
    kept = (*module._modules, *module._parameters, *module._buffers)
    for name in kept:
        if hasattr(nn.Module, name):
            yield (
                name,
                f"is a method of nn.Module: module.{name} is that, not what was set",
                "error",
            )
    for name, value in own_attributes(module).items():
        taken = callable(getattr(nn.Module, name, None)) and not name.startswith("__")
        if taken and not callable(value):
            kind = type(value).__name__
            yield name, f"is a method of nn.Module, which this {kind} hides", "warning"


RULE = Rule(
    name="clashing-name",
    severity="error",
    what="A child, parameter or attribute with the name of a method of nn.Module: type, half, "
    "train, children.",
    why="A child of that name cannot be reached, since the method is found first; a number or list "
    "of that name hides the method from whoever calls it.",
    mend="Call it something else.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.half = nn.Linear(20, 10)

    def forward(self, x):
        return self.half(x)
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.half_layer = nn.Linear(20, 10)

    def forward(self, x):
        return self.half_layer(x)
""",
    find=find,
)
