"""Iterators that a second forward finds empty."""

import ast
import itertools
from collections.abc import Iterable, Iterator
from io import IOBase

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.paths.structure import own_attributes

_ENDLESS = (itertools.count, itertools.cycle, itertools.repeat)


def find(context: Context) -> Iterable[Place]:
    for path, module in context.modules:
        once = {n: v for n, v in own_attributes(module).items() if _ends(v)}
        if not once:
            continue
        read = {
            name.split(".")[0]
            for method in context.reached(type(module), "forward")
            for node in ast.walk(method.node)
            if (name := method.attribute(node)) is not None
        }
        for name, value in once.items():
            file, line = context.assigned(type(module), name)
            if name in read:
                yield Place(
                    path,
                    f"`{name}` is a {type(value).__name__}: forward goes through it once, and "
                    "finds it empty the second time",
                    file,
                    line,
                    mend=f"Write self.{name} = nn.ModuleList(...), which registers layers, too.",
                )


def _ends(value: object) -> bool:
    """Whether a value is an iterator of Python's own that is used up."""
    if not isinstance(value, Iterator) or isinstance(value, (*_ENDLESS, IOBase)):
        return False
    return type(value).__module__ in ("builtins", "itertools")


RULE = Rule(
    name="exhausted-iterator",
    severity="error",
    what="A generator, map, zip or iterator as an attribute that forward reads.",
    why="The first call uses it up; the second loops over nothing and returns its input, without a "
    "word. Layers in it are not registered.",
    mend="Keep a list: nn.ModuleList(...) of layers, list(...) of other things.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = (nn.Linear(20, 20) for _ in range(3))

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
        self.layers = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
""",
    find=find,
)
