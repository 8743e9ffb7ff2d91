"""Modules and parameters that stand at several paths: they are tied."""

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.paths.ties import tied_modules, tied_tensors


def find(context: Context) -> Iterable[Place]:
    if context.root is None:
        return
    first = dict(context.modules)
    shared = tied_modules(context.root)
    for paths in shared:
        module = first[paths[0]]
        has_state = any(True for _ in _tensors(module))
        if has_state and not _inside_another(paths[0], shared):
            yield Place(
                paths[0],
                f"one {type(module).__name__} stands at {_listed(paths)}",
                severity="info",
            )
    for names in _tied_parameters(context.root, first):
        yield Place(
            names[0].rpartition(".")[0],
            f"one parameter has the names {_listed(names)}",
            severity="info",
        )


def _tensors(module: nn.Module) -> Iterator[object]:
    yield from module.parameters()
    yield from module.buffers()


def _inside_another(path: str, others: Iterable[tuple[str, ...]]) -> bool:
    """Whether ``path`` is below a module that is shared itself, and reported."""
    return any(path.startswith(f"{other[0]}.") for other in others)


def _tied_parameters(root: nn.Module, first: dict[str, nn.Module]) -> Iterator[list[str]]:
    """The names of each parameter that distinct modules, or one under two names, hold."""
    for names in tied_tensors(root):
        own = [name for name in names if name.rpartition(".")[0] in first]
        owner, _, name = own[0].rpartition(".")
        if len(own) > 1 and name in first[owner]._parameters:
            yield own


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:6])
    return shown + (f" and {len(names) - 6} more paths" if len(names) > 6 else "")


RULE = Rule(
    name="shared-module",
    severity="info",
    what="One module or parameter that stands at several paths: [layer] * n, "
    "Sequential(*[block] * n), a tied weight.",
    why="There is one set of parameters, trained by all uses together. If several layers were "
    "meant, the network is smaller than it looks.",
    mend="Nothing, if it is meant. Else make one instance for each path, as ch.Repeat(factory, n) "
    "does.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*[nn.Linear(20, 20)] * 3)

    def forward(self, x):
        return self.blocks(x)
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*[nn.Linear(20, 20) for _ in range(3)])

    def forward(self, x):
        return self.blocks(x)
""",
    find=find,
)
