"""A tie that the constructor makes and that what runs after it takes apart."""

import ast
from collections.abc import Iterable, Iterator

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method
from chimera.paths.walk import join


def find(context: Context) -> Iterable[Place]:
    for path, module in context.modules:
        for method in _constructing(context, type(module), "__init__", ()):
            for line, names in _ties(method):
                tensors = [_parameter(module, name) for name in names]
                if any(tensor is None for tensor in tensors):
                    continue
                if any(tensor is not tensors[0] for tensor in tensors):
                    said = " and ".join(f"`{join(path, name)}`" for name in names)
                    yield Place(
                        path,
                        f"{said} are tied here, and are two parameters in the end",
                        method.file.path,
                        line,
                    )


def _constructing(
    context: Context, kind: type, name: str, above: tuple[str, ...]
) -> Iterator[Method]:
    """``__init__`` and the methods that it calls whatever its arguments are."""
    method = context.sources.method(kind, name)
    if method is None or name in above:
        return
    yield method
    for statement in method.node.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            called = method.attribute(statement.value.func)
            if called is not None and called.isidentifier():
                yield from _constructing(context, kind, called, (*above, name))


def _ties(method: Method) -> Iterator[tuple[int, list[str]]]:
    """The lines ``self.a.weight = self.b.weight`` that run in any case, with both names."""
    for statement in method.node.body:
        if isinstance(statement, ast.Assign):
            sides = [*statement.targets, statement.value]
            names = [name for side in sides if (name := method.attribute(side)) is not None]
            if len(names) == len(sides) and any("." in name for name in names):
                yield statement.lineno, names


def _parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    try:
        return module.get_parameter(name)
    except AttributeError:
        return None


RULE = Rule(
    name="tie-undone",
    severity="warning",
    what="Parameters that the constructor ties (self.out.weight = self.embed.weight) and that are "
    "two in the end, since something after it puts a new parameter in the place of one of them.",
    why="They are trained apart: the network has more parameters than were meant, and the two "
    "drift away from each other.",
    mend="Tie last; and initialize in place (nn.init.normal_(self.out.weight)), which keeps a tie.",
    before="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.out = nn.Linear(8, 50, bias=False)
        self.out.weight = self.embed.weight
        self.draw()

    def draw(self):
        self.out.weight = nn.Parameter(torch.randn(50, 8) * 0.02)

    def forward(self, x):
        return self.out(self.embed(x))
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.out = nn.Linear(8, 50, bias=False)
        self.out.weight = self.embed.weight
        self.draw()

    def draw(self):
        nn.init.normal_(self.out.weight, std=0.02)

    def forward(self, x):
        return self.out(self.embed(x))
""",
    find=find,
)
