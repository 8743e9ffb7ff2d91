"""Networks that set their own mode."""

import ast
from collections.abc import Iterable

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method


def find(context: Context) -> Iterable[Place]:
    said: set[tuple[str, bool]] = set()
    for place in _written(context):
        said.add((place.path, place.severity is None))
        yield place
    if context.fresh and not any(not running for _, running in said):
        yield from _born_in_evaluation(context)
    experiment = context.experiment
    for tape in (experiment.training, experiment.evaluation) if experiment is not None else ():
        if tape is not None and tape.switched and not any(running for _, running in said):
            first = tape.switched[0]
            kind = type(dict(tape.root.named_modules())[first]).__name__
            said.add((first, True))
            yield Place(
                first,
                f"the forward call leaves this {kind} in another mode than before",
            )


def _born_in_evaluation(context: Context) -> Iterable[Place]:
    """What the constructor leaves in evaluation, where no ``train`` of a class keeps it there."""
    if context.root is None:
        return
    kept: list[str] = []
    modules = dict(context.paths)
    for path, module in context.modules:
        own = context.sources.method(type(module), "train") is not None
        if own or any(path == k or path.startswith(f"{k}.") or not k for k in kept):
            kept.append(path)
        elif not module.training:
            kept.append(path)
            above = path.rpartition(".")[0]
            holder = type(modules[above])
            file, line = context.assigned(holder, path.rpartition(".")[2])
            yield Place(
                path,
                f"the constructor leaves this {type(module).__name__} in evaluation mode",
                file,
                line,
                "warning",
                why=_UNDONE,
            )


_UNDONE = "train() on the whole network undoes it, before the first step."


def _written(context: Context) -> Iterable[Place]:
    """The calls in the constructor and in what forward runs."""
    for start in ("__init__", "forward"):
        for path, module, method in context.methods(start):
            # A train() of the class's own keeps a part in evaluation: that is the right way.
            owner = type(module) if module is not None else method.owner
            if context.sources.method(owner, "train") is not None:
                continue
            # A constructor may run a part in evaluation for its sizes, and put the modes back.
            parts = module.modules() if module is not None else ()
            fresh = start == "__init__" and context.fresh and module is not None
            if fresh and all(part.training for part in parts):
                continue
            for node in ast.walk(method.node):
                called = _mode(method, module, node)
                if called is None:
                    continue
                when = "in the constructor" if start == "__init__" else "in forward"
                yield Place(
                    path,
                    f"{method.owner.__name__} calls {called} {when}",
                    method.file.path,
                    node.lineno,  # type: ignore[attr-defined]
                    "warning" if start == "__init__" else None,
                    why=_UNDONE if start == "__init__" else None,
                )


def _mode(method: Method, module: nn.Module | None, node: ast.AST) -> str | None:
    """The call, if it sets the mode of the module or of a child."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    if node.func.attr not in ("train", "eval"):
        return None
    owner = node.func.value
    if method.is_me(owner):
        return ast.unparse(node)
    name = method.attribute(owner)
    if name is None or module is None:
        return None
    try:
        module.get_submodule(name)
    except AttributeError:
        return None
    return ast.unparse(node)


RULE = Rule(
    name="mode-changed",
    severity="error",
    what="train() or eval() that a network calls on itself or on a part, in its constructor or in "
    "forward.",
    why="The caller's train() and eval() are undone: dropout and batch norm run in a mode that "
    "nobody asked for, in this call or in all that follow.",
    mend="Leave modes to the caller. To keep a part in evaluation, override train(): call "
    "super().train(mode), then part.eval().",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20))
        self.backbone.eval()
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        return self.head(self.backbone(x))
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20))
        self.head = nn.Linear(20, 5)

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(self.backbone(x))
""",
    find=find,
)
