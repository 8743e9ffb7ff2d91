"""Results that nobody takes."""

import ast
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method

_NAMES = (
    "view reshape permute transpose squeeze unsqueeze flatten expand contiguous relu sigmoid tanh "
    "softmax log_softmax masked_fill clamp detach float double half long bool exp log sqrt pow "
    "mul div sub matmul mean sum chunk masked_select scatter gather"
)
_PURE = frozenset(_NAMES.split())
"""Methods that tensors have, and that leave their tensor as it is."""


def find(context: Context) -> Iterable[Place]:
    for path, module, method in context.methods("forward"):
        for node in ast.walk(method.node):
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
                continue
            call = node.value
            if _is_pure(method, module, call):
                yield Place(
                    path,
                    f"nothing takes the result of {ast.unparse(call)}",
                    method.file.path,
                    node.lineno,
                    mend=f"Write x = {ast.unparse(call)}.",
                )


def _is_pure(method: Method, module: nn.Module | None, call: ast.Call) -> bool:
    """Whether a call does nothing but give a result."""
    if any(k.arg in (None, "out", "inplace") for k in call.keywords):
        return False
    name = method.attribute(call.func)
    if name is not None and module is not None:
        try:
            child = module.get_submodule(name)
        except AttributeError:
            return False
        return _only_computes(child)
    function = method.resolve(call.func)
    if function is not None:
        called = getattr(function, "__name__", "_")
        return not called.endswith("_") and (
            function is getattr(torch.nn.functional, called, None)
            or (called in _PURE and function is getattr(torch, called, None))
        )
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in _PURE:
        return False
    owner = call.func.value
    return (
        isinstance(owner, (ast.Name, ast.Call))
        and not method.is_me(owner)
        and (hasattr(Tensor, call.func.attr))
    )


def _only_computes(module: nn.Module) -> bool:
    """Whether a call of a layer of torch's leaves nothing behind."""
    for part in module.modules():
        if not type(part).__module__.startswith("torch.nn.modules"):
            return False
        if vars(part).get("inplace") or part._forward_hooks or part._forward_pre_hooks:
            return False
        if isinstance(part, nn.modules.batchnorm._NormBase):
            return False
    return True


RULE = Rule(
    name="result-thrown-away",
    severity="error",
    what="A call of a layer, of a function of torch or of a tensor's method in a forward whose "
    "result nobody takes: self.norm(x), F.relu(x), x.view(-1, 20).",
    why="Nothing happens: these give a new tensor and leave the old one as it is.",
    mend="Take the result: x = F.relu(x).",
    before="""\
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        x = self.linear(x)
        F.relu(x)
        return x
""",
    after="""\
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        x = self.linear(x)
        x = F.relu(x)
        return x
""",
    find=find,
)
