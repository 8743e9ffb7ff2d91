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
    """The assignments of new layers to a network, in the code behind its optimizer, which neither
    is made anew after them nor is given them."""
    trained: set[str] = set()
    waiting: dict[ast.Assign, str] = {}
    for statement in _in_order(body):
        if isinstance(statement, ast.Expr) and "add_param_group" in ast.unparse(statement):
            told = ast.unparse(statement)
            waiting = {
                node: net
                for node, net in waiting.items()
                if not any(ast.unparse(target) in told for target in node.targets)
            }
        if not isinstance(statement, ast.Assign):
            continue
        for target in statement.targets:
            owners = [name for name in _owners(target) if name in trained]
            if owners and isinstance(statement.value, ast.Call):
                called = ast.unparse(statement.value.func)
                if called.startswith("nn.") or ".nn." in called:
                    waiting[statement] = owners[0]
        trained -= {ast.unparse(target) for target in statement.targets}
        value = statement.value
        if isinstance(value, ast.Call) and "optim" in ast.unparse(value.func).lower():
            anew = {name for argument in value.args for name in _networks(argument)}
            waiting = {node: net for node, net in waiting.items() if net not in anew}
            trained |= anew
    yield from ((net, statement) for statement, net in waiting.items())


def _in_order(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block and of the blocks in it, functions and classes left out."""
    for statement in body:
        yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for block in ("body", "orelse", "finalbody"):
                yield from _in_order(getattr(statement, block, []))


def _owners(target: ast.expr) -> Iterator[str]:
    """``"self.net"`` and ``"self"`` for ``self.net.head``; ``"net.body"`` for ``net.body[0]``."""
    inner: ast.AST = target
    while isinstance(inner, (ast.Attribute, ast.Subscript)):
        inner = inner.value
        yield ast.unparse(inner)


def _networks(argument: ast.expr) -> Iterator[str]:
    for node in ast.walk(argument):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("parameters", "named_parameters")
        ):
            yield ast.unparse(node.func.value)


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
