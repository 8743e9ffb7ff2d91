"""Arguments of layers that do not mean what they look like."""

import ast
import inspect
from collections.abc import Iterable, Iterator
from typing import TypeGuard

from torch import Tensor, nn

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_SLOPES = ((nn.LeakyReLU, "negative_slope"), (nn.ELU, "alpha"), (nn.CELU, "alpha"))


def find(context: Context) -> Iterable[Place]:
    for path, module in context.modules:
        for said, mend, severity in _mistakes(module):
            yield Place(path, said, severity=severity, mend=mend)
    yield from _of_calls(context)
    yield from _of_the_run(context)
    for path, method in context.running():
        for node in ast.walk(method.node):
            # nn.ReLU(x) makes a layer: its argument is inplace.
            if not (isinstance(node, ast.Call) and len(node.args) == 1):
                continue
            kind = method.resolve(node.func)
            given = node.args[0]
            if kind in _INPLACE and not isinstance(given, ast.Constant):
                yield Place(
                    path,
                    f"{ast.unparse(node)} makes a layer and gives it no input: its argument is "
                    "inplace",
                    method.file.path,
                    node.lineno,
                    "error",
                    mend=f"Write {ast.unparse(node.func)}()({ast.unparse(given)}), or the function "
                    "of that name in torch.nn.functional.",
                )


_NUMBERS = (
    *("p", "eps", "momentum", "beta", "alpha", "lambd", "threshold", "min_val", "max_val", "init"),
    *("kernel_size", "stride", "padding", "dilation", "groups", "num_groups", "upper", "lower"),
)
"""Attributes of torch's layers that are numbers."""


def _of_calls(context: Context) -> Iterator[Place]:
    """A number where a layer takes true or false: nn.Linear(20, 5, 0.1)."""
    for start in ("__init__", "forward"):
        for path, _, method in context.methods(start):
            for call in ast.walk(method.node):
                kind = method.resolve(call.func) if isinstance(call, ast.Call) else None
                if not (isinstance(call, ast.Call) and _is_torchs(kind)):
                    continue
                names = list(inspect.signature(kind).parameters.values())
                for argument, value in zip(names, call.args, strict=False):
                    number = isinstance(value, ast.Constant) and type(value.value) is float
                    if argument.annotation in (bool, "bool") and number:
                        yield Place(
                            path,
                            f"{ast.unparse(call)}: argument {argument.name} is true or false, not "
                            f"{ast.unparse(value)}",
                            method.file.path,
                            call.lineno,
                            "error",
                            mend="Name the argument that was meant.",
                        )


def _is_torchs(kind: object) -> TypeGuard[type[nn.Module]]:
    return (
        isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and kind.__module__.startswith("torch.nn.modules.")
    )


_RATES = {"dropout": "p", "leaky_relu": "negative_slope", "elu": "alpha", "softplus": "beta"}


def _of_the_run(context: Context) -> Iterator[Place]:
    """True or False where a function takes a number: F.dropout(x, self.training)."""
    if context.experiment is None or context.experiment.training is None:
        return
    for op in context.experiment.training.ops:
        name = _RATES.get(op.name)
        # A layer's own attribute is told of the layer.
        if name is None or op.line is None or not isinstance(op.argument(name, 1), bool):
            continue
        visit = [v for v in context.experiment.training.visits if v.path == op.path]
        if any(type(v.module).__module__.startswith("torch.nn.modules") for v in visit):
            continue
        yield Place(
            op.path,
            f"{op.name} gets {op.argument(name, 1)} as {name}, which is a number",
            op.file,
            op.line,
            "error",
            mend="Name the argument that was meant: training=self.training, inplace=True.",
        )


_INPLACE = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.SELU, nn.Mish, nn.Hardswish, nn.Hardsigmoid)


def _mistakes(module: nn.Module) -> Iterator[tuple[str, str, Severity]]:
    for kind, name in _SLOPES:
        if isinstance(module, kind) and isinstance(getattr(module, name), bool):
            value = getattr(module, name)
            yield (
                f"{kind.__name__}({value}): the first argument is {name}, not inplace",
                f"Write {kind.__name__}(inplace={value}).",
                "error",
            )
    if type(module).__module__.startswith("torch.nn.modules."):
        told = [name for kind, name in _SLOPES if isinstance(module, kind)]
        for name in _NUMBERS:
            value = vars(module).get(name)
            first = value[0] if isinstance(value, tuple) and value else value
            if isinstance(first, bool) and name not in told:
                yield (
                    f"{name} of this {type(module).__name__} is {first}, and is a number",
                    "Name the argument that was meant: inplace=True, bias=False.",
                    "error",
                )
    if type(module) in _INPLACE and isinstance(getattr(module, "inplace", None), Tensor):
        name = type(module).__name__
        yield f"{name}(tensor): the argument is inplace", f"Write {name}()(tensor).", "error"
    if isinstance(module, _NORMS) and module.eps is not None and 0.05 <= module.eps < 1:
        yield (
            f"eps is {module.eps:g}: the second argument of {type(module).__name__} is eps",
            f"Write momentum={module.eps:g}, if that was meant.",
            "warning",
        )
    momentum = getattr(module, "momentum", None)
    norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    if norm and isinstance(momentum, float) and 0.9 <= momentum < 1:
        yield (
            f"momentum is {momentum:g}: torch weighs the new statistics with it, others the "
            "old ones",
            f"Write momentum={1 - momentum:g}, if the old ones were to count {momentum:g}.",
            "warning",
        )
    if isinstance(module, nn.RNNBase) and module.num_layers == 1 and module.dropout > 0:
        yield (
            f"dropout={module.dropout:g} has no effect in one layer: it acts between layers",
            "Put an nn.Dropout behind it, or use two layers.",
            "warning",
        )
    if isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 1:
        yield "p is 1: everything is dropped", "Write the share that is to be dropped.", "warning"


RULE = Rule(
    name="mistaken-argument",
    severity="warning",
    what="LeakyReLU(True), nn.ReLU(x) in a forward, an eps of a norm above 0.05 (momentum was "
    "meant), a momentum of a batch norm from 0.9 (torch counts the other way), dropout in a "
    "recurrent network of one layer, dropout of everything.",
    why="The value is taken without a word, for something else than it was written for.",
    mend="Write the name of the argument.",
    before="""\
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(20, 20), nn.BatchNorm1d(20, 0.1), nn.LeakyReLU(True))
""",
    after="""\
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Linear(20, 20), nn.BatchNorm1d(20, momentum=0.1), nn.LeakyReLU(inplace=True)
        )
""",
    find=find,
)
