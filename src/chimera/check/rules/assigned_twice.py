"""A child that another child replaces at once."""

import ast
from collections.abc import Iterable, Iterator

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method


def find(context: Context) -> Iterable[Place]:
    for path, _, method in context.methods("__init__"):
        for name, first, second in _twice(method, method.node.body):
            yield Place(
                path,
                f"`{name}` is set to a module on line {first} and to another on line {second}: "
                "the first is lost",
                method.file.path,
                second,
            )


def _twice(method: Method, body: list[ast.stmt]) -> Iterator[tuple[str, int, int]]:
    """The attributes that one block sets to two modules, with nothing between that reads them."""
    made: dict[str, int] = {}
    for statement in body:
        inner = [getattr(statement, field, []) for field in ("body", "orelse", "finalbody")]
        for node in ast.walk(statement):
            name = method.attribute(node)
            if name is not None and isinstance(getattr(node, "ctx", None), ast.Load):
                made.pop(name.split(".")[0], None)
            elif method.is_me(node) and not _is_owner(statement, node):
                made.clear()
        if any(inner):
            for name in list(made):
                if any(
                    name in method.sets(n) for n in ast.walk(statement) if isinstance(n, ast.expr)
                ):
                    made.pop(name)
            for block in inner:
                yield from _twice(method, block)
        elif isinstance(statement, ast.Assign):
            for name in (n for target in statement.targets for n in method.sets(target)):
                if not _is_module(method, statement.value):
                    made.pop(name, None)
                    continue
                if name in made:
                    yield name, made[name], statement.lineno
                # An empty container or an Identity is a default, not a layer.
                value = statement.value
                if isinstance(value, ast.Call) and (value.args or value.keywords):
                    made[name] = statement.lineno
                else:
                    made.pop(name, None)


def _is_owner(statement: ast.stmt, me: ast.AST) -> bool:
    """Whether ``self`` only stands before a dot."""
    return any(isinstance(n, ast.Attribute) and n.value is me for n in ast.walk(statement))


def _is_module(method: Method, value: ast.expr) -> bool:
    made = method.resolve(value.func) if isinstance(value, ast.Call) else None
    return isinstance(made, type) and issubclass(made, nn.Module)


RULE = Rule(
    name="assigned-twice",
    severity="warning",
    what="A constructor that sets one attribute to a module and then to another, without a look at "
    "it between.",
    why="The second takes the place of the first, which is gone: most often a line was copied and "
    "its name left as it was.",
    mend="Give each module a name of its own.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 20)
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x)
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, 20)
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(self.hidden(x).relu())
""",
    find=find,
)
