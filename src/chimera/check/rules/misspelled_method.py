"""Methods whose names are nearly those that torch or Python calls."""

import difflib
from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule

_CALLED = ("forward", "__init__")


def find(context: Context) -> Iterable[Place]:
    for path, source in context.classes():
        if not issubclass(source.kind, nn.Module):
            continue
        for name in _CALLED:
            if name in source.methods or (name == "forward" and _has_forward(source.kind)):
                continue
            for written, method in source.methods.items():
                if _is_near(written, name) and not hasattr(nn.Module, written):
                    yield Place(
                        path,
                        f"{source.kind.__name__} has `{written}` and no `{name}`",
                        method.file.path,
                        method.node.lineno,
                        mend=f"Call it {name}.",
                    )


def _has_forward(kind: type[nn.Module]) -> bool:
    return kind.forward is not nn.Module.forward


def _is_near(written: str, wanted: str) -> bool:
    if wanted == "__init__" and not (written.startswith("_") and written.endswith("_")):
        return False
    plain = written.strip("_").lower()
    if plain == wanted.strip("_"):
        return True
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
