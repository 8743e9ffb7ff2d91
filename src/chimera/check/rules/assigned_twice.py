"""A child that another child replaces at once."""

import ast
import inspect
from collections.abc import Iterable, Iterator

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method


def find(context: Context) -> Iterable[Place]:
    for path, module, method in context.methods("__init__"):
        known = frozenset(module._modules if module is not None else ())
        found = [
            *_twice(method, method.node.body, known),
            *_in_loops(method, known),
            *_in_one_dict(method),
        ]
        for name, first, second in found:
            said = (
                f"`{name}` is set to a module on line {first} and to another on line {second}: "
                "the first is lost"
                if first != second
                else f"`{name}` is set to a module again and again: only the last is kept"
            )
            yield Place(path, said, method.file.path, second)


def _twice(
    method: Method, body: list[ast.stmt], known: frozenset[str]
) -> Iterator[tuple[str, int, int]]:
    """The attributes that one block sets to two modules, with nothing between that reads them."""
    made: dict[str, int] = {}
    for statement in body:
        inner = [getattr(statement, field, []) for field in ("body", "orelse", "finalbody")]
        for node in ast.walk(statement):
            name = method.attribute(node)
            registers = name in _REGISTER or _is_setattr(statement)
            if name is not None and isinstance(getattr(node, "ctx", None), ast.Load):
                made.pop(name.split(".")[0], None)
            elif method.is_me(node) and not _is_owner(statement, node) and not registers:
                made.clear()
        if any(inner):
            for name in list(made):
                if any(name == n for s in ast.walk(statement) for n, _ in _sets(method, s)):
                    made.pop(name)
            for block in inner:
                yield from _twice(method, block, known)
            continue
        for name, value in _sets(method, statement):
            if not _is_module(method, value, name in known):
                made.pop(name, None)
                continue
            if name in made:
                yield name, made[name], statement.lineno
            # An empty container or an Identity is a default, not a layer.
            if _is_default(method, value):
                made.pop(name, None)
            else:
                made[name] = statement.lineno


_REGISTER = ("add_module", "register_module")


def _is_setattr(statement: ast.AST) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) == "setattr"


def _sets(method: Method, statement: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The attributes of ``self`` that a statement sets, each with its value: by an assignment, by
    ``self.add_module("name", ...)`` or ``setattr(self, "name", ...)``."""
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            parts = getattr(target, "elts", [])
            values = getattr(statement.value, "elts", [])
            if parts and len(parts) == len(values):
                for part, value in zip(parts, values, strict=True):
                    yield from ((name, value) for name in method.sets(part))
            else:
                yield from ((name, statement.value) for name in method.sets(target))
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        arguments = call.args[1:] if _is_setattr(statement) else call.args
        own = _is_setattr(statement) and call.args and method.is_me(call.args[0])
        if (own or method.attribute(call.func) in _REGISTER) and len(arguments) == 2:
            name, value = arguments
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value, value


def _in_loops(method: Method, known: frozenset[str]) -> Iterator[tuple[str, int, int]]:
    """The attributes that every turn of a loop sets to a module anew, with nothing that reads
    them in the loop."""
    for loop in ast.walk(method.node):
        if not isinstance(loop, (ast.For, ast.While)):
            continue
        read = {
            name.split(".")[0]
            for node in ast.walk(loop)
            if (name := method.attribute(node)) and isinstance(getattr(node, "ctx", 0), ast.Load)
        }
        ends = any(isinstance(node, (ast.Break, ast.Return)) for node in ast.walk(loop))
        for statement in loop.body:
            for name, value in _sets(method, statement):
                made = _is_module(method, value, name in known)
                if made and name not in read and not ends and not _is_default(method, value):
                    yield name, statement.lineno, statement.lineno


def _in_one_dict(method: Method) -> Iterator[tuple[str, int, int]]:
    """The keys that stand twice in one dict of modules, or list of pairs of them."""
    for node in ast.walk(method.node):
        keys: list[ast.expr | None] = []
        values: list[ast.expr] = []
        if isinstance(node, ast.Dict):
            keys, values = node.keys, node.values
        elif isinstance(node, ast.List):
            pairs = [p.elts for p in node.elts if isinstance(p, ast.Tuple) and len(p.elts) == 2]
            keys, values = [key for key, _ in pairs], [value for _, value in pairs]
        seen: dict[object, int] = {}
        for key, value in zip(keys, values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                if key.value in seen and _is_module(method, value, False):
                    yield key.value, seen[key.value], key.lineno
                seen[key.value] = key.lineno


def _is_owner(statement: ast.stmt, me: ast.AST) -> bool:
    """Whether ``self`` only stands before a dot."""
    return any(isinstance(n, ast.Attribute) and n.value is me for n in ast.walk(statement))


def _is_module(method: Method, value: ast.expr, known: bool) -> bool:
    """Whether a value is a call that makes a module; of a function that is only known by the
    attribute, which is one."""
    made = method.resolve(value.func) if isinstance(value, ast.Call) else None
    if isinstance(made, type):
        return issubclass(made, nn.Module)
    return known and inspect.isfunction(made) and not isinstance(made, type)


def _is_default(method: Method, value: ast.expr) -> bool:
    if not isinstance(value, ast.Call):
        return True
    made = method.resolve(value.func)
    empty = isinstance(made, type) and not (value.args or value.keywords)
    return empty or made is nn.Identity


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
