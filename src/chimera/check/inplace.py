"""Calls that change what they are given, as the source of a forward shows them."""

import ast

from torch import Tensor, nn

from chimera.check.source import Method


def changed_by(call: ast.AST, method: Method, module: nn.Module) -> str | None:
    """The name of the variable that a call in ``method`` of ``module`` changes: ``"x"`` of
    ``x.relu_()``, ``F.relu(x, inplace=True)`` and ``self.act(x)`` where that works in place."""
    if not (isinstance(call, ast.Call) and isinstance(call.func, (ast.Attribute, ast.Name))):
        return None
    if isinstance(call.func, ast.Attribute) and _is_inplace_name(call.func.attr):
        name = base(call.func.value)
        if name is not None and method.resolve(call.func) is None:
            return name
    first = call.args[0] if call.args else None
    return first.id if isinstance(first, ast.Name) and _is_inplace(call, method, module) else None


def _is_inplace(call: ast.Call, method: Method, module: nn.Module) -> bool:
    """Whether a call changes its first argument: a layer or function with ``inplace=True``."""
    for keyword in call.keywords:
        if keyword.arg == "inplace" and isinstance(keyword.value, ast.Constant):
            return keyword.value.value is True
    name = method.attribute(call.func)
    if name is None:
        # torch.relu_(x), F.relu_(x)
        return _is_inplace_name(str(getattr(method.resolve(call.func), "__name__", "")))
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        return False
    if isinstance(layer, nn.Sequential | nn.ModuleList) and len(layer):
        layer = layer[0]
    return vars(layer).get("inplace") is True


def _is_inplace_name(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and hasattr(Tensor, name)


def base(node: ast.AST) -> str | None:
    """``"x"`` for ``x`` and for ``x[...]``."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
