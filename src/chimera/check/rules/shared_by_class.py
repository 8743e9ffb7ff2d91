"""Modules that all instances of a class share without saying so."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule


def find(context: Context) -> Iterable[Place]:
    owned = {id(module) for _, module in context.modules}
    for kind, paths in context.uses.items():
        source = context.sources.of(kind)
        file = source.file.path if source.file is not None else None
        for name, value in vars(kind).items():
            for part in _stateful(value):
                yield Place(
                    paths[0],
                    f"`{name}` is an attribute of the class {kind.__name__}, with a "
                    f"{type(part).__name__} in it",
                    file,
                    source.node.lineno if source.node is not None else None,
                    mend=f"Set self.{name} in the constructor.",
                )
                break
        constructor = vars(kind).get("__init__")
        if not inspect.isfunction(constructor):
            continue
        method = source.methods.get("__init__")
        for name, argument in inspect.signature(constructor).parameters.items():
            for part in _stateful(argument.default):
                if isinstance(part, nn.Module) and id(part) not in owned:
                    continue
                yield Place(
                    paths[0],
                    f"the default of `{name}` is one {type(part).__name__} that all instances of "
                    f"{kind.__name__} share",
                    file,
                    method.node.lineno if method is not None else None,
                    mend=f"Write {name}=None, and make it in the constructor.",
                )
                break


def _stateful(value: Any) -> Iterator[nn.Module | nn.Parameter]:
    """Modules with parameters or buffers, and parameters, in a value or a container of one."""
    parts = value.values() if isinstance(value, dict) else value
    for part in parts if isinstance(value, (list, tuple, dict)) else [value]:
        if isinstance(part, nn.Parameter) or (
            isinstance(part, nn.Module) and any(True for _ in _tensors(part))
        ):
            yield part


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


RULE = Rule(
    name="shared-by-class",
    severity="error",
    what="A module or parameter that is an attribute of a class, or the default of an argument of "
    "a constructor.",
    why="It is made once, when the class is: all instances train the same one; as an attribute of "
    "the class it is not registered either.",
    mend="Make it in the constructor.",
    before="""\
from torch import nn


class Net(nn.Module):
    linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x)
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x)
""",
    find=find,
)
