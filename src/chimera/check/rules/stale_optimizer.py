"""Optimizers that were made before the parameters that are trained."""

import ast
from collections.abc import Iterable, Iterator

from chimera.check.context import Context
from chimera.check.rule import Place, Rule


def find(context: Context) -> Iterable[Place]:
    seen: set[str] = set()
    for path, source in context.classes():
        if source.file is None or source.file.path in seen:
            continue
        seen.add(source.file.path)
        for scope in source.file.scopes():
            for net, statement in _replaced(scope):
                yield Place(
                    path,
                    f"{ast.unparse(statement)} replaces parameters after the optimizer was made "
                    f"from {net}.parameters()",
                    source.file.path,
                    statement.lineno,
                )


def _replaced(body: list[ast.stmt]) -> Iterator[tuple[str, ast.Assign]]:
    """The assignments of new layers to a network, in straight code behind its optimizer."""
    trained: set[str] = set()
    for statement in body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                owner = _owner(target)
                if owner in trained and isinstance(statement.value, ast.Call):
                    called = ast.unparse(statement.value.func)
                    if called.startswith("nn.") or ".nn." in called:
                        yield owner, statement
            value = statement.value
            targets = {t.id for t in statement.targets if isinstance(t, ast.Name)}
            trained -= targets
            if isinstance(value, ast.Call) and "optim" in ast.unparse(value.func):
                trained |= {name for argument in value.args for name in _networks(argument)}


def _owner(target: ast.expr) -> str | None:
    """``"net"`` for ``net.head`` and ``net.body[0]``."""
    inner: ast.AST = target
    while isinstance(inner, (ast.Attribute, ast.Subscript)):
        inner = inner.value
    return inner.id if isinstance(inner, ast.Name) and inner is not target else None


def _networks(argument: ast.expr) -> Iterator[str]:
    for node in ast.walk(argument):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "parameters"
            and isinstance(node.func.value, ast.Name)
        ):
            yield node.func.value.id


RULE = Rule(
    name="stale-optimizer",
    severity="error",
    what="Training code, in the file of the network, that replaces a layer after it made the "
    "optimizer.",
    why="The optimizer holds the old parameters: the new layer is never trained.",
    mend="Make the optimizer after the last change of the network.",
    before="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        return self.head(x)


def train():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.head = nn.Linear(20, 3)
    return net, optimizer
""",
    after="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        return self.head(x)


def train():
    net = Net()
    net.head = nn.Linear(20, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return net, optimizer
""",
    find=find,
)
