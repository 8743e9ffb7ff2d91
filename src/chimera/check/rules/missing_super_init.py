"""Constructors that leave out ``super().__init__()``, or come to it too late."""

import ast
import dataclasses
from collections.abc import Iterable

from chimera.check.context import Context, blamed, is_super
from chimera.check.rule import Place, Rule
from chimera.check.source import Method

_REFUSED = "before Module.__init__() call"
"""What torch says when a constructor registers something too early."""


def find(context: Context) -> Iterable[Place]:
    places = list(_written(context))
    yield from places
    error = context.refused
    if places or error is None or _REFUSED not in str(error):
        return
    for path, kind in context.kinds:
        file, line = blamed(error)
        made_by_dataclass = dataclasses.is_dataclass(kind)
        yield Place(
            path,
            f"the constructor of {kind.__name__} registers a module or parameter before "
            "nn.Module.__init__() has run",
            file,
            line,
            mend="Call super().__init__() first in __post_init__, and write "
            "@dataclass(eq=False): modules are compared by identity."
            if made_by_dataclass
            else None,
        )


def _written(context: Context) -> Iterable[Place]:
    for path, source in context.classes():
        constructor = source.methods.get("__init__")
        if constructor is None:
            continue
        name = source.kind.__name__
        calls = [
            call.lineno
            for method in context.reached(source.kind, "__init__")
            for call in ast.walk(method.node)
            if isinstance(call, ast.Call) and _calls_a_base(method, call)
        ]
        if not calls:
            yield Place(
                path,
                f"the constructor of {name} never calls super().__init__()",
                constructor.file.path,
                constructor.node.lineno,
            )
        elif context.root is None:
            # Before it, plain attributes may be set; modules and parameters may not.
            for line in _registrations(constructor):
                if line < min(calls):
                    yield Place(
                        path,
                        f"the constructor of {name} sets an attribute to a module or parameter "
                        "before it calls super().__init__()",
                        constructor.file.path,
                        line,
                    )


def _calls_a_base(method: Method, node: ast.Call) -> bool:
    """Whether ``node`` is ``super().__init__(...)`` or ``Base.__init__(self, ...)``."""
    if not (isinstance(node.func, ast.Attribute) and node.func.attr == "__init__"):
        return False
    return is_super(node.func.value) or any(method.is_me(part) for part in node.args)


def _registrations(method: Method) -> list[int]:
    """The lines on which ``self.name`` is set to the result of a class that was called."""
    found = []
    for node in ast.walk(method.node):
        if isinstance(node, ast.Assign) and any(method.sets(target) for target in node.targets):
            made = node.value
            if isinstance(made, ast.Call) and isinstance(method.resolve(made.func), type):
                found.append(node.lineno)
    return sorted(found)


RULE = Rule(
    name="missing-super-init",
    severity="error",
    what="A constructor of a module that does not call super().__init__(), or registers something "
    "before it does.",
    why="Without it there is no place for parameters, buffers, modules and hooks: torch raises an "
    "AttributeError as soon as one is set or the module is called.",
    mend="Call super().__init__() on the first line of the constructor.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return self.linear(x)
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
