"""Tensors that leave the graph, or the device, inside a forward."""

import ast
from collections.abc import Iterable, Iterator

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.operations import LEAVING
from chimera.check.rule import Place, Rule
from chimera.check.source import Method

_METHODS: dict[str, tuple[Severity, str]] = {
    "numpy": ("warning", "Stay in torch: no gradient comes back from numpy."),
    "cpu": ("warning", "Leave the device to the caller: net.to(device) moves what is registered."),
    "item": ("info", "Keep the tensor, or take a number from the configuration."),
    "tolist": ("info", "Keep the tensor."),
}
_NO_GRADIENT = ("no_grad", "inference_mode")


def find(context: Context) -> Iterable[Place]:
    said: set[tuple[str | None, int | None]] = set()
    for place in _written(context):
        said.add((place.file, place.line))
        yield place
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    kinds = {path: type(module) for path, module in context.paths}
    # float(x), int(x), np.asarray(x), and what other functions do.
    for op in experiment.training.ops:
        if op.path in kinds and kinds[op.path].__module__.startswith(
            "torch.nn."
        ):  # what torch's own layers do
            continue
        if op.name in LEAVING and op.line is not None and (op.file, op.line) not in said:
            said.add((op.file, op.line))
            file = context.sources.file(op.file or "")
            text = file.line(op.line).strip() if file is not None else ""
            yield Place(
                op.path,
                f"`{text}` takes numbers out of torch, and waits for the device",
                op.file,
                op.line,
                "info",
                mend="Keep the tensor, or take a number from the configuration.",
            )


def _written(context: Context) -> Iterable[Place]:
    """What the methods that run say."""
    for path, method in context.running():
        if any(_is_no_gradient(part) for part in method.node.decorator_list):
            continue
        lengths = _lengths(method.node)
        for node in _with_gradients(method.node):
            if isinstance(node, ast.Attribute) and node.attr == "data" and _is_read(method, node):
                yield Place(
                    path,
                    f"{ast.unparse(node)} leaves the graph: no gradient passes, and autograd does "
                    "not see what is changed in it",
                    method.file.path,
                    node.lineno,
                    mend="Use .detach(), which autograd watches, if no gradient is meant to pass.",
                )
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if id(node) in lengths:
                    continue
                name = node.func.attr
                if name in _METHODS and not node.args and not node.keywords:
                    severity, mend = _METHODS[name]
                    yield Place(
                        path,
                        f"{ast.unparse(node)} leaves "
                        + ("the device" if name == "cpu" else "the graph and waits for the device"),
                        method.file.path,
                        node.lineno,
                        severity,
                        mend=mend,
                    )


def _lengths(node: ast.AST) -> set[int]:
    """What ``pack_padded_sequence`` takes: its lengths are to be on the CPU."""
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    packing = [c for c in calls if ast.unparse(c.func).endswith("pack_padded_sequence")]
    return {id(a) for c in packing for a in (*c.args[1:2], *(k.value for k in c.keywords))}


def _with_gradients(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, those under ``with torch.no_grad()`` left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.With) and any(
            _is_no_gradient(item.context_expr) for item in child.items
        ):
            continue
        yield child
        yield from _with_gradients(child)


def _is_no_gradient(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        node = node.func
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
    return name in _NO_GRADIENT


def _is_read(method: Method, node: ast.Attribute) -> bool:
    """Whether ``x.data`` is read off something that may be a tensor (``self.data`` is no such)."""
    if not isinstance(node.ctx, ast.Load) or method.is_me(node.value):
        return False
    return method.resolve(node) is None and method.resolve(node.value) is None


RULE = Rule(
    name="leaves-graph",
    severity="warning",
    what=".data, .numpy(), .cpu(), .item() or .tolist() in a forward, outside of torch.no_grad().",
    why="What passes through it gets no gradient; a device waits for it; torch.compile, "
    "torch.export and CUDA graphs break there.",
    mend="Compute with the tensor itself.",
    before="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return torch.tanh(self.linear(x).data)
""",
    after="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return torch.tanh(self.linear(x))
""",
    find=find,
)
