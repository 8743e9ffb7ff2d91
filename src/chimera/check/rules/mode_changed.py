"""Networks that set their own mode."""

import ast
from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method


def find(context: Context) -> Iterable[Place]:
    for start in ("__init__", "forward"):
        for path, module, method in context.methods(start):
            # A train() of the class's own keeps a part in evaluation: that is the right way.
            owner = type(module) if module is not None else method.owner
            if context.sources.method(owner, "train") is not None:
                continue
            for node in ast.walk(method.node):
                called = _mode(method, module, node)
                if called is None:
                    continue
                when = "in the constructor" if start == "__init__" else "in forward"
                yield Place(
                    path,
                    f"{method.owner.__name__} calls {called} {when}",
                    method.file.path,
                    node.lineno,  # type: ignore[attr-defined]
                    "warning" if start == "__init__" else None,
                    why="train() on the whole network undoes it, before the first step."
                    if start == "__init__"
                    else None,
                )


def _mode(method: Method, module: nn.Module | None, node: ast.AST) -> str | None:
    """The call, if it sets the mode of the module or of a child."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    if node.func.attr not in ("train", "eval"):
        return None
    owner = node.func.value
    if method.is_me(owner):
        return ast.unparse(node)
    name = method.attribute(owner)
    if name is None or module is None:
        return None
    try:
        module.get_submodule(name)
    except AttributeError:
        return None
    return ast.unparse(node)


RULE = Rule(
    name="mode-changed",
    severity="error",
    what="train() or eval() that a network calls on itself or on a part, in its constructor or in "
    "forward.",
    why="The caller's train() and eval() are undone: dropout and batch norm run in a mode that "
    "nobody asked for, in this call or in all that follow.",
    mend="Leave modes to the caller. To keep a part in evaluation, override train(): call "
    "super().train(mode), then part.eval().",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20))
        self.backbone.eval()
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        return self.head(self.backbone(x))
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20))
        self.head = nn.Linear(20, 5)

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(self.backbone(x))
""",
    find=find,
)
