"""Methods whose names are nearly those that torch or Python calls."""

import ast
import difflib
from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import ClassSource

_CALLED = ("forward", "__init__", "reset_parameters")


def find(context: Context) -> Iterable[Place]:
    for path, source in context.classes():
        if not issubclass(source.kind, nn.Module):
            continue
        if not _has_forward(source.kind):
            yield from _without_forward(path, source)
        for name in _CALLED:
            if name in source.methods or (name == "forward" and _has_forward(source.kind)):
                continue
            for key, method in source.methods.items():
                # Two underscores in front and not behind: Python puts the class before them.
                written = key.removeprefix(f"_{source.kind.__name__.lstrip('_')}") or key
                if _is_near(written, name) and not hasattr(nn.Module, written):
                    yield Place(
                        path,
                        f"{source.kind.__name__} has `{written}` and no `{name}`",
                        method.file.path,
                        method.node.lineno,
                        mend=f"Call it {name}.",
                    )


def _without_forward(path: str, source: ClassSource) -> Iterable[Place]:
    """What a class without forward has in its place: __call__, or a function in its constructor."""
    for key, method in source.methods.items():
        if key == "__call__":
            yield Place(
                path,
                f"{source.kind.__name__} has `__call__` and no `forward`: hooks do not run, and "
                "torch.compile, export and Stack do not see what it computes",
                method.file.path,
                method.node.lineno,
                "warning",
                mend="Call it forward.",
            )
        for node in ast.walk(method.node):
            inner = isinstance(node, ast.FunctionDef) and node is not method.node
            if inner and isinstance(node, ast.FunctionDef) and node.name == "forward":
                yield Place(
                    path,
                    f"`forward` stands inside {key} of {source.kind.__name__}: it is a function "
                    "that ends there, no method",
                    method.file.path,
                    node.lineno,
                    mend="Indent it as the other methods are.",
                )


def _has_forward(kind: type[nn.Module]) -> bool:
    return kind.forward is not nn.Module.forward


def _is_near(written: str, wanted: str) -> bool:
    if wanted == "__init__" and not (written.startswith("_") and written.endswith("_")):
        return False
    plain = written.strip("_").lower()
    if plain == wanted.strip("_") or (wanted == "forward" and plain == "call"):
        return True
    if wanted == "reset_parameters":
        return difflib.SequenceMatcher(None, plain, wanted).ratio() >= 0.93
    if wanted == "__init__":
        return plain in ("int", "intit", "inti", "initt", "iinit", "ini")
    return difflib.SequenceMatcher(None, plain, wanted).ratio() >= 0.8


RULE = Rule(
    name="misspelled-method",
    severity="error",
    what="A module without a forward, or a constructor, but with a method of nearly that name: "
    "foward, _init_, __int__.",
    why="Nothing calls it: the module raises NotImplementedError, or has no layers.",
    mend="Mend the name.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def foward(self, x):
        return self.linear(x)
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x)
""",
    find=find,
)
