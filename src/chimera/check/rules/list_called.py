"""Containers that are called as if they were layers."""

import ast
from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def find(context: Context) -> Iterable[Place]:
    for path, module, method in context.methods("forward"):
        for node in ast.walk(method.node):
            if not isinstance(node, ast.Call) or module is None:
                continue
            name = method.attribute(node.func)
            try:
                child = module.get_submodule(name) if name else None
            except AttributeError:
                continue
            if isinstance(child, _LISTS) and type(child).forward in _FORWARDS:
                kind = type(child).__name__
                yield Place(
                    path,
                    f"{ast.unparse(node)} calls a {kind}, which has no forward",
                    method.file.path,
                    node.lineno,
                )


_FORWARDS = (nn.Module.forward, nn.ParameterList.forward, nn.ParameterDict.forward)

RULE = Rule(
    name="list-called",
    severity="error",
    what="An nn.ModuleList or nn.ModuleDict that a forward calls.",
    why="It only holds layers: the call raises NotImplementedError.",
    mend="Loop over it, or use nn.Sequential or ch.Sequential, which run their layers in order.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(20, 20), nn.Linear(20, 5)])

    def forward(self, x):
        return self.layers(x)
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 5))

    def forward(self, x):
        return self.layers(x)
""",
    find=find,
)
