"""Parameters whose values cannot be meant."""

import ast
from collections.abc import Iterable

import torch
from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method
from chimera.paths.walk import join

_WEIGHTED = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)


def find(context: Context) -> Iterable[Place]:
    net = context.experiment.net if context.experiment is not None else context.root
    if net is None:
        return
    gradients = context.experiment.gradients if context.experiment is not None else None
    for path, module in net.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if nn.parameter.is_lazy(p) or p.is_meta or not p.is_floating_point():
                continue
            values, full = p.detach(), join(path, name)
            said = None
            if not values.isfinite().all():
                kind = "NaN" if values.isnan().any() else "infinite numbers"
                yield Place(path, f"`{full}` holds {kind}", severity="error")
                continue
            if values.dim() < 2 or values[0].numel() < 2 or len(values) < 2 or not p.requires_grad:
                continue
            # Elsewhere zero is usual: positions, scales and biases of attention.
            if not isinstance(module, _WEIGHTED):
                continue
            if not values.any():
                gradient = (gradients or {}).get(full)
                if gradient is not None and not gradient.any():
                    said = f"`{full}` is zero, and so is its gradient: it will stay zero"
            elif bool((values == values.flatten()[0]).all()):
                said = f"every number of `{full}` is {values.flatten()[0].item():g}"
            if said:
                yield Place(path, said)

    yield from _never_filled(context)


def _never_filled(context: Context) -> Iterable[Place]:
    """Parameters made of memory that no method of the class writes."""

    seen: set[int] = set()
    for path, module in context.modules:
        kind = type(module)
        methods = {
            id(method.node): method
            for source in context.sources.all_of(kind)
            for method in source.methods.values()
        }
        if _fills_all(methods.values()):
            continue
        for method in methods.values():
            for node in ast.walk(method.node):
                if not isinstance(node, ast.Assign) or id(node) in seen:
                    continue
                if not _is_empty_parameter(method, node.value):
                    continue
                seen.add(id(node))
                for name in (n for target in node.targets for n in method.sets(target)):
                    if name in module._parameters and not _mentioned(methods.values(), name, node):
                        yield Place(
                            path,
                            f"`{join(path, name)}` is memory that nothing fills: "
                            f"{ast.unparse(node.value)}",
                            method.file.path,
                            node.lineno,
                            severity="error",
                        )


def _is_empty_parameter(method: Method, value: ast.expr) -> bool:

    if not (isinstance(value, ast.Call) and value.args):
        return False
    made = method.resolve(value.func)
    if not (isinstance(made, type) and issubclass(made, nn.Parameter)):
        return False
    inner = value.args[0]
    if not isinstance(inner, ast.Call):
        return False
    maker = method.resolve(inner.func)
    if maker is torch.empty:
        return True
    sizes = [a for a in inner.args if not isinstance(a, (ast.List, ast.Tuple))]
    return maker in (torch.Tensor, torch.FloatTensor) and len(sizes) == len(inner.args) > 0


def _fills_all(methods: Iterable[Method]) -> bool:
    """Whether a method goes over parameters, or hands the module to something."""

    names = {"parameters", "named_parameters", "apply", "modules", "_parameters", "getattr"}
    for method in methods:
        for node in ast.walk(method.node):
            if isinstance(node, ast.Attribute) and node.attr in names and method.is_me(node.value):
                return True
            if isinstance(node, ast.Call) and any(method.is_me(a) for a in node.args):
                called = node.func
                if not (isinstance(called, ast.Attribute) and called.attr == "__init__"):
                    return True
    return False


def _mentioned(methods: Iterable[Method], name: str, made: ast.Assign) -> bool:
    """Whether a call outside of forward names the parameter: it may fill it."""

    for method in methods:
        if method.name == "forward":
            continue
        for node in ast.walk(method.node):
            attribute = method.attribute(node) or ""
            if attribute.split(".")[0] == name and not any(node is t for t in made.targets):
                return True
    return False


RULE = Rule(
    name="initial-values",
    severity="warning",
    what="Parameters that are NaN or infinite, memory that nothing fills, weights of a layer that "
    "are all the same, and weights of zero whose gradient is zero too. A weight of zero that "
    "learns, as in LoRA or at the end of a residual branch, is right.",
    why="Units with equal weights stay equal: the layer is as wide as one unit. Unfilled memory "
    "holds whatever was there, NaN at times.",
    mend="Leave torch's own initialization, or draw: nn.init.kaiming_normal_(weight).",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)
        nn.init.constant_(self.linear.weight, 0.5)

    def forward(self, x):
        return self.linear(x)


subject = Net()
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)
        nn.init.kaiming_normal_(self.linear.weight)

    def forward(self, x):
        return self.linear(x)


subject = Net()
""",
    find=find,
)
