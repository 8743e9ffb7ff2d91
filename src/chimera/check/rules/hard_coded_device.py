"""Devices and dtypes that are written into a network."""

import ast
from collections.abc import Iterable

import torch

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule
from chimera.check.source import Method

_MAKERS = frozenset(
    ("zeros", "ones", "rand", "randn", "empty", "full", "eye", "arange", "linspace", "tensor")
)
_DEVICES = ("cuda", "cpu", "mps", "xpu")
_CASTS = ("half", "bfloat16", "float", "double")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def find(context: Context) -> Iterable[Place]:
    for start in ("__init__", "forward"):
        for path, method in ((path, m) for path, _, m in context.methods(start)):
            moved = _moved(method)
            for node in ast.walk(method.node):
                if not isinstance(node, ast.Call):
                    continue
                for said, severity in _of_call(method, node, moved, start == "forward"):
                    yield Place(path, said, method.file.path, node.lineno, severity)


def _of_call(
    method: Method, call: ast.Call, moved: set[int], running: bool
) -> Iterable[tuple[str, Severity | None]]:
    text = ast.unparse(call)
    device = next((k.value for k in call.keywords if k.arg == "device"), None)
    if isinstance(call.func, ast.Attribute):
        name, owner = call.func.attr, call.func.value
        if name == "cuda" and method.resolve(call.func) is None:
            yield f"{text} moves to one device, whatever the caller's", None
        first = call.args[0] if call.args else None
        if name == "to" and _is_device(_constant(method, first)):
            yield f"{text} moves to one device, whatever the caller's", None
        casts = name in _CASTS and not call.args
        if name == "to" and first is not None:
            casts = method.resolve(first) in _DTYPES
        if running and casts and method.resolve(owner) is None:
            yield f"{text} sets a dtype, whatever the network's", "info"
        if name == "type" and first is not None and ast.unparse(first).endswith("Tensor"):
            yield f"{text} sets a dtype and the CPU, whatever the network's", None
    where = _constant(method, device)
    # A constructor makes everything on the CPU, unless it is told.
    if _is_device(where) and (running or where != "cpu"):
        yield f"{text} is made on one device, whatever the network's", None
    if not running or device is not None or id(call) in moved:
        return
    made = method.resolve(call.func)
    name = getattr(made, "__name__", "")
    starred = any(k.arg is None for k in call.keywords)
    if name in ("arange", "linspace", "tensor") and (id(call) in _only_indexes(method)):
        return
    # A tensor of one number meets tensors of any device.
    listed = any(isinstance(n, (ast.List, ast.Tuple, ast.ListComp)) for n in ast.walk(call))
    if name == "tensor" and not listed:
        return
    if name in _MAKERS and made is getattr(torch, name) and not starred:
        yield f"{text} is made on the CPU, wherever the input is", None


def _constant(method: Method, value: ast.expr | None) -> object:
    """What an argument is: written out, a name that the method sets to such, or a global."""
    if isinstance(value, ast.Constant):
        return value.value
    if isinstance(value, ast.IfExp):
        # "cuda" if torch.cuda.is_available() else "cpu"
        sides = [_constant(method, side) for side in (value.body, value.orelse)]
        return sides[0] if all(map(_is_device, sides)) else None
    if isinstance(value, ast.Call) and method.resolve(value.func) is torch.device:
        kind = next((k.value for k in value.keywords if k.arg in ("device", "type")), None)
        return _constant(method, value.args[0] if value.args else kind)
    if not isinstance(value, ast.Name):
        return None
    set_to = [
        node.value
        for node in ast.walk(method.node)
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == value.id for t in node.targets)
    ]
    if set_to:
        one = set_to[0]
        written = len(set_to) == 1 and isinstance(one, (ast.Constant, ast.IfExp, ast.Call))
        return _constant(method, one) if written else None
    arguments = method.node.args
    given = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    if any(argument.arg == value.id for argument in given):
        return None
    found = method.namespace.get(value.id)
    return str(found) if isinstance(found, (str, torch.device)) else None


def _only_indexes(method: Method) -> set[int]:
    """The calls between brackets, or whose name stands only there: an index may be on the CPU."""
    inside = {
        id(part)
        for node in ast.walk(method.node)
        if isinstance(node, ast.Subscript)
        for part in ast.walk(node.slice)
    }
    for node in ast.walk(method.node):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            read = [
                n
                for n in ast.walk(method.node)
                if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)
            ]
            if read and all(id(n) in inside for n in read):
                inside.update(id(part) for part in ast.walk(node.value))
    return inside


def _is_device(value: object) -> bool:
    return isinstance(value, str) and value.split(":")[0] in _DEVICES


def _moved(method: Method) -> set[int]:
    """The calls whose result is moved: at once, or later by its name."""
    found: set[int] = set()
    names: set[str] = set()
    for node in ast.walk(method.node):
        if isinstance(node, ast.Attribute) and node.attr in ("to", "type_as", "cuda", "cpu"):
            owner: ast.AST = node.value
            if isinstance(owner, ast.Name):
                names.add(owner.id)
            found.update(id(part) for part in ast.walk(owner))
        # What is filled, compared or only indexes may stay where it is.
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("from_numpy", ".item")):
            found.update(id(part) for part in ast.walk(node))
    # What is put into something that is moved is moved with it.
    written = [node for node in ast.walk(method.node) if isinstance(node, ast.Assign)]
    for _ in written:
        before = len(names)
        for node in written:
            if any(_base(target) in names for target in node.targets):
                parts = list(ast.walk(node.value))
                found.update(map(id, parts))
                names.update(part.id for part in parts if isinstance(part, ast.Name))
        if len(names) == before:
            break
    return found


def _base(target: ast.expr) -> str | None:
    """``"x"`` for ``x`` and for ``x[...]``."""
    while isinstance(target, ast.Subscript):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


RULE = Rule(
    name="hard-coded-device",
    severity="warning",
    what='.cuda(), .to("cuda") or device="cuda" in a constructor or forward; torch.zeros and its '
    "like without device in a forward.",
    why="The network runs on one kind of machine only: elsewhere tensors of two devices meet.",
    mend="Take the device of what comes: torch.zeros(n, device=x.device), x.new_zeros(n); leave "
    "moving to net.to(device).",
    before="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(20, 5)

    def forward(self, x):
        state = torch.zeros(x.shape[0], 5)
        return self.cell(x, state)
""",
    after="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(20, 5)

    def forward(self, x):
        state = torch.zeros(x.shape[0], 5, device=x.device, dtype=x.dtype)
        return self.cell(x, state)
""",
    find=find,
)
