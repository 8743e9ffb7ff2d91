"""Functional dropout that does not know whether the network is trained."""

import ast
from collections.abc import Callable, Iterable

from torch import nn
from torch.nn import functional

from chimera.check.attributes import held
from chimera.check.context import Context
from chimera.check.rule import Place, Rule

_DROPOUTS = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
)
_NAMES = frozenset((*(f.__name__ for f in _DROPOUTS), "feature_dropout"))
_TRAINING = 2
"""The place of ``training`` among the arguments of each of them."""


def find(context: Context) -> Iterable[Place]:
    said: set[tuple[str | None, int | None]] = set()
    for place in _written(context):
        said.add((place.file, place.line))
        yield place
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    # A closure over registered layers calls those of the network, whose mode is its own.
    closed = {
        path for path, module in context.modules if any(True for _ in held(module, nn.Module))
    }
    for op in experiment.evaluation.ops:
        if op.path in closed:
            continue
        told = op.argument("training", 2, op.kwargs.get("train"))
        if op.name in _NAMES and told is True and (op.file, op.line) not in said:
            said.add((op.file, op.line))
            if op.argument("p", 1, 0.5):
                yield Place(
                    op.path, f"{op.name} drops in evaluation, too", op.file, op.line, "warning"
                )


def _written(context: Context) -> Iterable[Place]:
    """The calls in the methods that run."""
    for path, method in context.running():
        guarded = _guarded(method.node, method.is_me)
        for node in ast.walk(method.node):
            if not isinstance(node, ast.Call) or node in guarded:
                continue
            function = method.resolve(node.func)
            called = ast.unparse(node.func)
            if function in _DROPOUTS:
                told = _argument(node, "training", _TRAINING)
                if told is None or _is_true(told):
                    yield Place(
                        path,
                        f"{called}(...) is on in evaluation too: "
                        + ("training is not given" if told is None else "training is always True"),
                        method.file.path,
                        node.lineno,
                        # Written out, it may be meant, as in Monte Carlo dropout.
                        severity=None if told is None else "info",
                    )
            elif function is functional.scaled_dot_product_attention:
                rate = _argument(node, "dropout_p", 4)
                if rate is not None and _ignores_training(rate):
                    yield Place(
                        path,
                        f"{called}(..., dropout_p={ast.unparse(rate)}) drops in evaluation too",
                        method.file.path,
                        node.lineno,
                        severity="warning",
                        mend="Write dropout_p=p if self.training else 0.0.",
                    )


def _guarded(node: ast.AST, is_me: Callable[[ast.expr], bool]) -> set[ast.AST]:
    """What runs in training only, by an ``if`` or what stands for one."""

    def asks(test: ast.expr) -> bool:
        """Whether the test is false in evaluation."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            return any(map(asks, test.values))
        return isinstance(test, ast.Attribute) and test.attr == "training" and is_me(test.value)

    def refuses(test: ast.expr) -> bool:
        """Whether the test is true in evaluation."""
        return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and asks(test.operand)

    found: set[ast.AST] = set()
    for part in ast.walk(node):
        inside: list[ast.AST] = []
        if isinstance(part, ast.If | ast.IfExp):
            body = part.body if isinstance(part.body, list) else [part.body]
            otherwise = part.orelse if isinstance(part.orelse, list) else [part.orelse]
            if asks(part.test):
                inside += body
            elif refuses(part.test):
                inside += otherwise
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(part, block, ())
            after = statements if isinstance(statements, list) else ()
            for i, statement in enumerate(after):
                left = isinstance(statement, ast.If) and refuses(statement.test)
                if left and isinstance(statement.body[-1], ast.Return | ast.Raise):
                    inside += after[i + 1 :]
        found |= {below for top in inside for below in ast.walk(top)}
    return found


def _argument(call: ast.Call, name: str, position: int) -> ast.expr | None:
    """An argument by name or position; None where it is not given (or may be, with ``*``)."""
    for keyword in call.keywords:
        if keyword.arg == name or keyword.arg is None:
            return keyword.value
    return call.args[position] if len(call.args) > position else None


def _is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def _ignores_training(rate: ast.expr) -> bool:
    """Whether a dropout rate is a number above 0, or an attribute, that is always applied."""
    if isinstance(rate, ast.Constant):
        return bool(rate.value)
    return isinstance(rate, ast.Attribute)


RULE = Rule(
    name="dropout-always-on",
    severity="error",
    what="torch.nn.functional.dropout, or attention with dropout_p, that does not look at "
    "self.training.",
    why="The function cannot see train() and eval(): it drops at evaluation too, so that "
    "predictions are random and worse.",
    mend="Pass training=self.training, or use nn.Dropout, which knows.",
    before="""\
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return F.dropout(self.linear(x), 0.5)
""",
    after="""\
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return F.dropout(self.linear(x), 0.5, training=self.training)
""",
    find=find,
)
