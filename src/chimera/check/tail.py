"""The last operation of a network: as a run shows it, or by what each forward returns."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chimera.check.context import Context
from chimera.check.operations import Op, Value, through
from chimera.check.source import Method
from chimera.paths.walk import join


@dataclass(frozen=True)
class Last:
    """An activation whose result is the network's output, and where it stands."""

    activation: str
    path: str
    file: str | None = None
    line: int | None = None


_MODULES: dict[type[nn.Module], str] = {
    nn.Softmax: "softmax",
    nn.Softmax2d: "softmax",
    nn.LogSoftmax: "log_softmax",
    nn.Sigmoid: "sigmoid",
    nn.LogSigmoid: "log_sigmoid",
    nn.ReLU: "relu",
}
_FUNCTIONS: list[tuple[Callable[..., Any], str]] = [
    (torch.softmax, "softmax"),
    (functional.softmax, "softmax"),
    (torch.log_softmax, "log_softmax"),
    (functional.log_softmax, "log_softmax"),
    (torch.sigmoid, "sigmoid"),
    (functional.sigmoid, "sigmoid"),
    (functional.logsigmoid, "log_sigmoid"),
    (torch.relu, "relu"),
    (functional.relu, "relu"),
]
_METHODS = frozenset(("softmax", "log_softmax", "sigmoid", "relu"))
_NAMES = {
    **{name: name for name in ("softmax", "log_softmax", "sigmoid", "relu", "tanh")},
    "special_expit": "sigmoid",
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
    "logsigmoid": "log_sigmoid",
    "log_sigmoid": "log_sigmoid",
    "clamp_min": "relu",
}
"""What the recorded functions are called here."""
_SHAPE = frozenset(
    ("view", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "contiguous")
) | {"float", "to", "clone"}


def last_activations(context: Context) -> list[Last]:
    """The activations that the network ends in: one, or several where forward has several ends."""
    if context.root is None:
        return []
    if context.experiment is not None and context.experiment.evaluation is not None:
        outputs = context.experiment.evaluation.outputs
        return [last for last in map(_of_value, outputs) if last is not None]
    return list(dict.fromkeys(_of_module(context, "", context.root, depth=0)))


def _of_value(value: Value) -> Last | None:
    """The activation that made an output of a recorded run."""
    *_, value = through(value, _SHAPE)
    op = value.maker
    if op is None:
        return None
    name = _NAMES.get(op.name.removesuffix("_"))
    if op.name in ("clamp", "clamp_", "clip"):
        least, most = op.argument("min", 1), op.argument("max", 2)
        name = "relu" if least == 0 and most is None else None
        if name is None and op.inputs:
            inner = _of_value(op.inputs[0])  # probabilities that are kept from 0 and 1
            return inner if inner and inner.activation in ("sigmoid", "softmax") else None
    name = name or _by_hand(op) or _by_tanh(value)
    return Last(name, op.path, op.file, op.line) if name is not None else None


def _by_hand(op: Op) -> str | None:
    """The activation that a division, or what stands for one, ends: ``1 / (1 + exp(-x))``,
    ``exp(x) / exp(x).sum(1)``."""
    if op.name in ("div", "true_divide") and len(op.inputs) == 2:
        above, below = op.inputs
    elif (op.name == "__rdiv__" and op.args[1] == 1) or (
        op.name == "reciprocal" or (op.name == "pow" and op.argument("exponent", 1) == -1)
    ):
        above, below = None, op.inputs[0]
    else:
        return None
    if above is not None and not _is_of(above, "exp"):
        return None
    *_, below = through(below, _SHAPE)
    made = below.maker
    if made is None:
        return None
    if made.name in ("add", "__radd__") and len(made.inputs) == 1 and 1 in made.args[1:]:
        inner = made.inputs[0]
        return "sigmoid" if _is_of(inner, "exp") and above in (None, inner) else None
    return "softmax" if made.name == "sum" and above is made.inputs[0] else None


def _by_tanh(value: Value) -> str | None:
    """The sigmoid that ``0.5 * (1 + tanh(x / 2))`` is: from 0 to 1, wherever the numbers stand."""
    scale, shift, op = 1.0, 0.0, value.maker
    while op is not None and op.name.removesuffix("_") in _AFFINE and len(op.inputs) == 1:
        number, name = op.args[1] if len(op.args) > 1 else op.argument("other", 1), op.name
        if isinstance(number, bool) or not isinstance(number, int | float):
            return None
        if set(op.kwargs) - {"other"} or (name.startswith("div") and not number):
            return None
        factor, term = _AFFINE[name.removesuffix("_")](number)
        scale, shift = scale * factor, shift + scale * term
        op = op.inputs[0].maker
    tanh = op is not None and op.name in ("tanh", "tanh_")
    return "sigmoid" if tanh and (scale, shift) == (0.5, 0.5) else None


_AFFINE: dict[str, Callable[[float], tuple[float, float]]] = {
    "mul": lambda number: (number, 0.0),
    "div": lambda number: (1 / number, 0.0),
    "add": lambda number: (1.0, number),
    "sub": lambda number: (1.0, -number),
}
"""An operation with a number as a factor and a term."""


def _is_of(value: Value, name: str) -> bool:
    return value.maker is not None and value.maker.name == name


def _of_module(context: Context, path: str, module: nn.Module, depth: int) -> Iterator[Last]:
    if depth > 50:
        return
    for kind, activation in _MODULES.items():
        if type(module) is kind:
            yield Last(activation, path)
    method = context.sources.method(type(module), "forward")
    if method is not None:
        yield from _of_method(context, path, module, method, depth)
    elif isinstance(module, nn.Sequential) or _is_our_sequence(module):
        children = list(module._modules.items())
        if children:
            name, child = children[-1]
            if child is not None:
                yield from _of_module(context, join(path, name), child, depth + 1)


def _is_our_sequence(module: nn.Module) -> bool:
    from chimera.blocks import Sequential

    return isinstance(module, Sequential)


def _of_method(
    context: Context, path: str, module: nn.Module, method: Method, depth: int
) -> Iterator[Last]:
    for value in _returned(method.node):
        if not isinstance(value, ast.Call):
            continue
        line = value.lineno
        name = method.attribute(value.func)
        if name is not None:
            child = _child(module, name)
            if child is not None:
                yield from _of_module(context, join(path, name), child, depth + 1)
            continue
        function = method.resolve(value.func)
        for known, activation in _FUNCTIONS:
            if function is known:
                yield Last(activation, path, method.file.path, line)
        if (
            function is None
            and isinstance(value.func, ast.Attribute)
            and value.func.attr in _METHODS
            and hasattr(Tensor, value.func.attr)
        ):
            yield Last(value.func.attr, path, method.file.path, line)


def _child(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _returned(function: ast.AST) -> Iterator[ast.expr]:
    """The expressions that are returned, a local name followed to the last thing it was set to."""
    assigned: dict[str, ast.expr] = {}
    for node in _own_statements(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    assigned[target.id] = node.value
        elif isinstance(node, (ast.AugAssign, ast.For)) and isinstance(node.target, ast.Name):
            assigned.pop(node.target.id, None)
        elif isinstance(node, ast.Return) and node.value is not None:
            value, seen = node.value, set()
            while isinstance(value, ast.Name) and value.id in assigned and value.id not in seen:
                seen.add(value.id)
                value = assigned[value.id]
            yield value


def _own_statements(function: ast.AST) -> Iterator[ast.AST]:
    """The statements of a function in the order of its text, without those of functions in it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield child
            yield from _own_statements(child)
