"""``forward`` called directly, which leaves out hooks."""

import ast
from collections.abc import Iterable

from chimera.check.context import Context, is_super
from chimera.check.rule import Place, Rule
from chimera.check.source import Method


def find(context: Context) -> Iterable[Place]:
    for path, module, method in context.methods("forward"):
        called_at = {id(n.func) for n in ast.walk(method.node) if isinstance(n, ast.Call)}
        for node in ast.walk(method.node):
            name = method.attribute(node) or ""
            if id(node) not in called_at and name.endswith(".forward") and module is not None:
                try:
                    module.get_submodule(name.removesuffix(".forward"))
                except AttributeError:
                    continue
                yield Place(
                    path,
                    f"{method.name} of {method.owner.__name__} takes {ast.unparse(node)}",
                    method.file.path,
                    node.lineno,  # type: ignore[attr-defined]
                    mend="Take the module itself: it can be called.",
                )
            if isinstance(node, ast.Call) and _calls_forward(method, node):
                called = ast.unparse(node.func)
                yield Place(
                    path,
                    f"{method.name} of {method.owner.__name__} calls {called}(...)",
                    method.file.path,
                    node.lineno,
                    mend=f"Call the module: {called.removesuffix('.forward')}(...).",
                )


def _calls_forward(method: Method, node: ast.Call) -> bool:
    """Whether ``node`` is ``module.forward(...)``, but for ``self``, ``super()`` and classes."""
    if not (isinstance(node.func, ast.Attribute) and node.func.attr == "forward"):
        return False
    owner = node.func.value
    return not (is_super(owner) or method.is_me(owner) or isinstance(method.resolve(owner), type))


RULE = Rule(
    name="forward-called",
    severity="warning",
    what="module.forward(x) in the forward of another module, instead of module(x).",
    why="Hooks do not run: what watches, prunes, normalizes (weight norm) or shards the module is "
    "left out, silently; lazy layers are never initialized.",
    mend="Call the module itself: module(x).",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return self.linear.forward(x)
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return self.linear(x)
""",
    find=find,
)
