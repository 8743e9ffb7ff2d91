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

_MOVES = frozenset(("to", "cuda", "cpu", "type", "type_as", "half", "float", "view_as", "clone"))


def find(context: Context) -> Iterable[Place]:
    for path, module, method in context.methods("forward"):
        tensors = _tensors(method, module)
        yield from _never_read(path, module, method)
        for node in ast.walk(method.node):
            if not isinstance(node, ast.Expr):
                continue
            call = node.value
            sum_of_tensors = isinstance(call, (ast.BinOp, ast.Subscript)) and any(
                isinstance(part, ast.Name) and part.id in tensors for part in ast.walk(call)
            )
            if sum_of_tensors or (
                isinstance(call, ast.Call) and _is_pure(method, module, call, tensors)
            ):
                yield Place(
                    path,
                    f"nothing takes the result of {ast.unparse(call)}",
                    method.file.path,
                    node.lineno,
                    mend=f"Write x = {ast.unparse(call)}.",
                )


def _tensors(method: Method, module: nn.Module | None) -> set[str]:
    """The local names that surely hold tensors: the first input, results of layers of torch's."""
    found = set(method.inputs[:1])
    for node in ast.walk(method.node):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            child = _child(module, method.attribute(node.value.func))
            if child is not None and type(child).__module__.startswith("torch.nn.modules"):
                found.update(t.id for t in node.targets if isinstance(t, ast.Name))
    return found


def _child(module: nn.Module | None, name: str | None) -> nn.Module | None:
    try:
        return module.get_submodule(name) if module is not None and name else None
    except AttributeError:
        return None


def _never_read(path: str, module: nn.Module | None, method: Method) -> Iterable[Place]:
    """Names that a layer's result is given and that nothing reads: another was meant."""
    read = {
        node.id
        for node in ast.walk(method.node)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(method.node):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        call = node.value
        child = _child(module, method.attribute(call.func))
        names = [t.id for t in node.targets if isinstance(t, ast.Name)]
        unread = [n for n in names if n not in read and not n.startswith("_")]
        if unread and len(names) == len(node.targets) and child is not None:
            yield Place(
                path,
                f"nothing reads `{unread[0]}`, the result of {ast.unparse(call)}",
                method.file.path,
                node.lineno,
                "warning",
                mend=f"Pass `{unread[0]}` on where it was meant to go, or leave the call out.",
            )


def _is_pure(method: Method, module: nn.Module | None, call: ast.Call, tensors: set[str]) -> bool:
    """Whether a call does nothing but give a result."""
    if any(k.arg in (None, "out", "inplace") for k in call.keywords):
        return False
    name = method.attribute(call.func)
    if name is not None and module is not None:
        child = _child(module, name)
        return child is not None and _only_computes(child)
    function = method.resolve(call.func)
    if function is not None:
        called = getattr(function, "__name__", "_")
        return not called.endswith("_") and (
            function is getattr(torch.nn.functional, called, None)
            or (called in _PURE and function is getattr(torch, called, None))
        )
    if not isinstance(call.func, ast.Attribute):
        return False
    owner, called = call.func.value, call.func.attr
    if isinstance(owner, ast.Name) and owner.id in tensors and hasattr(Tensor, called):
        # Of what is surely a tensor: also what has a twin in place, and what moves or casts.
        twin = hasattr(Tensor, f"{called}_") or called in _MOVES | _PURE
        return twin and not called.endswith("_")
    if called not in _PURE:
        return False
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
