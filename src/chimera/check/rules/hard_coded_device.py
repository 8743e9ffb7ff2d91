"""Devices and dtypes that are written into a network."""

import ast
from collections.abc import Iterable

import torch

from chimera.check.context import Context
from chimera.check.finding import Severity
from chimera.check.rule import Place, Rule
from chimera.check.source import Method

_MAKERS = frozenset(("zeros", "ones", "rand", "randn", "empty", "full", "eye"))
_DEVICES = ("cuda", "cpu", "mps", "xpu")
_LESS = ("half", "bfloat16", "double")


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
        if name == "to" and isinstance(first, ast.Constant) and _is_device(first.value):
            yield f"{text} moves to one device, whatever the caller's", None
        if running and name in _LESS and not call.args and method.resolve(owner) is None:
            yield f"{text} sets a dtype, whatever the network's", "info"
    if isinstance(device, ast.Constant) and _is_device(device.value):
        yield f"{text} is made on one device, whatever the network's", None
    if not running or device is not None or id(call) in moved:
        return
    made = method.resolve(call.func)
    name = getattr(made, "__name__", "")
    starred = any(k.arg is None for k in call.keywords)
    if name in _MAKERS and made is getattr(torch, name) and not starred:
        yield f"{text} is made on the CPU, wherever the input is", None


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
    for node in ast.walk(method.node):
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id in names for t in node.targets
        ):
            found.update(id(part) for part in ast.walk(node.value))
    return found


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
