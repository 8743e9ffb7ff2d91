"""Containers that are called as if they were layers."""

import ast
from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context, blamed
from chimera.check.rule import Place, Rule
from chimera.check.rules.does_not_run import AT
from chimera.paths.structure import own_attributes

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def find(context: Context) -> Iterable[Place]:
    said = False
    for place in _written(context):
        said = True
        yield place
    # One that is reached in a loop, or handed on, is told by the run that fails there.
    if said or context.root is None or context.trial is not None:
        return
    if isinstance(context.failure, NotImplementedError):
        at = AT.search("\n".join(getattr(context.failure, "__notes__", ())))
        path = at[1] if at is not None and at[1] != "(root)" else ""
        module = dict(context.paths).get(path)
        if isinstance(module, _LISTS):
            file, line = blamed(context.failure)
            kind = type(module).__name__
            yield Place(path, f"a {kind} is called, which has no forward", file, line)


def _written(context: Context) -> Iterable[Place]:
    for path, module, method in context.methods("forward"):
        for node in ast.walk(method.node):
            if not isinstance(node, ast.Call) or module is None:
                continue
            name = method.attribute(node.func)
            plain = own_attributes(module).get(name or "")
            if isinstance(plain, (list, tuple, dict)):
                yield Place(
                    path,
                    f"{ast.unparse(node)} calls a {type(plain).__name__}",
                    method.file.path,
                    node.lineno,
                )
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
