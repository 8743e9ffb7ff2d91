"""Names that nn.Module, or the class itself, has taken."""

import inspect
import re
from collections.abc import Iterable, Iterator

from torch import nn

from chimera.check.context import Context, blamed, hidden
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule
from chimera.paths.structure import own_attributes


def find(context: Context) -> Iterable[Place]:
    yield from _refused(context)
    yield from _overridden(context)
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


_EXISTS = re.compile(r"attribute '(\w+)' already exists")
_TORCHS_OWN = (
    *("train", "eval", "to", "apply", "parameters", "named_parameters", "children", "modules"),
    *("named_modules", "buffers", "state_dict", "zero_grad", "half", "float", "double", "cuda"),
)
"""Methods that torch and its users call by those names."""


def _refused(context: Context) -> Iterable[Place]:
    """A name that nn.Module refused to register, as in nn.ModuleDict({"type": ...})."""
    if context.refused is None:
        return
    found = _EXISTS.search(str(context.refused))
    if found is None:
        return
    for path, _ in context.kinds:
        file, line = blamed(context.refused)
        yield Place(path, f"`{found[1]}` is taken: no child can be called so", file, line)


def _overridden(context: Context) -> Iterable[Place]:
    """Methods of nn.Module that a class replaces by others that ask for more arguments."""
    for path, source in context.classes():
        for name, method in source.methods.items():
            if name not in _TORCHS_OWN or not issubclass(source.kind, nn.Module):
                continue
            wanted = _required(getattr(nn.Module, name))
            needed = _required(vars(source.kind)[name])
            if wanted is not None and needed is not None and needed > wanted:
                yield Place(
                    path,
                    f"`{name}` of {source.kind.__name__} takes the place of nn.Module.{name}, and "
                    "asks for more arguments than torch gives it",
                    method.file.path,
                    method.node.lineno,
                    "warning",
                    mend=f"Call it something else, such as `{name}_it`, or take what "
                    f"nn.Module.{name} takes.",
                )


def _required(function: object) -> int | None:
    """The number of arguments that must be given; None where it is no plain function."""
    if not inspect.isfunction(function):
        return None
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind in plain for p in given)


def _owner(kind: type[nn.Module], name: str) -> type | None:
    """The class whose attribute hides a child of that name; a property may give the child."""
    for base in kind.__mro__:
        if name in vars(base):
            return None if isinstance(vars(base)[name], property) else base
    return None


def _clashes(module: nn.Module) -> Iterator[tuple[str, str, Severity]]:
    kept = (*module._modules, *module._parameters, *module._buffers)
    for name in kept:
        owner = _owner(type(module), name)
        if owner is not None:
            of = "nn.Module" if owner is nn.Module else f"the class {owner.__name__}"
            what = "a method" if callable(inspect.getattr_static(owner, name)) else "an attribute"
            yield (
                name,
                f"is {what} of {of}: module.{name} is that, not what was set",
                "error",
            )
    if not isinstance(vars(module).get("training"), bool):
        yield "training", "is the mode of nn.Module, True or False, and is set to no such", "error"
    for name, value in own_attributes(module).items():
        taken = callable(getattr(nn.Module, name, None)) and not name.startswith("__")
        if taken and not callable(value):
            said = f"is a method of nn.Module, which this {type(value).__name__} hides"
            if name in hidden(module):
                yield name, f"{said}: nothing else can be looked at, built or trained", "error"
            else:
                yield name, said, "warning"


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
