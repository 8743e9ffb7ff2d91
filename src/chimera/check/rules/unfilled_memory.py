"""Parameters and buffers made of memory that nothing fills."""

import ast
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method
from chimera.paths.walk import join


def find(context: Context) -> Iterable[Place]:
    seen: set[int] = set()
    read: dict[type, list[tuple[Method, ast.stmt | ast.Call, str, str]]] = {}
    for path, module in context.modules:
        if type(module) not in read:
            read[type(module)] = _unfilled(context, type(module))
        for method, node, name, kind in read[type(module)]:
            kept = module._parameters if kind == "parameter" else module._buffers
            if name in kept and id(node) not in seen:
                seen.add(id(node))
                yield Place(
                    path,
                    f"`{join(path, name)}` is memory that nothing fills: {ast.unparse(node)}",
                    method.file.path,
                    node.lineno,
                )


def _unfilled(context: Context, kind: type) -> list[tuple[Method, ast.stmt | ast.Call, str, str]]:
    """Where the methods of a class register memory that none of them fills, under which name, as
    what."""
    methods = {
        id(method.node): method
        for source in context.sources.all_of(kind)
        for method in source.methods.values()
    }.values()
    if _fills_all(methods):
        return []
    return [
        (method, *made)
        for method in methods
        for made in _made(method)
        if not _filled(methods, made[1], made[0])
    ]


def _made(method: Method) -> Iterator[tuple[ast.stmt | ast.Call, str, str]]:
    """Where the method registers memory, under which name, as what."""
    empties = _empties(method)
    for node in ast.walk(method.node):
        if isinstance(node, ast.Assign) and _is_parameter(method, node.value, empties):
            for target in node.targets:
                yield from ((node, name, "parameter") for name in method.sets(target))
        elif isinstance(node, ast.Call) and len(node.args) >= 2:
            called, (name, value) = method.attribute(node.func), node.args[:2]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                if called == "register_buffer" and _is_empty(method, value, empties):
                    yield node, name.value, "buffer"
                elif called == "register_parameter" and _is_parameter(method, value, empties):
                    yield node, name.value, "parameter"


def _empties(method: Method) -> set[str]:
    """The local names that hold memory, and that the method mentions only once more."""
    found = set()
    names = [node.id for node in ast.walk(method.node) if isinstance(node, ast.Name)]
    for node in ast.walk(method.node):
        if isinstance(node, ast.Assign) and _is_empty(method, node.value, set()):
            for target in node.targets:
                if isinstance(target, ast.Name) and names.count(target.id) == 2:
                    found.add(target.id)
    return found


def _is_empty(method: Method, value: ast.expr, empties: set[str]) -> bool:
    """Whether a value is a call that takes memory and writes nothing into it, or its name."""
    if not isinstance(value, ast.Call):
        return isinstance(value, ast.Name) and value.id in empties
    maker = method.resolve(value.func)
    if maker in (torch.empty, torch.empty_like, torch.empty_strided):
        return True
    if maker is None and isinstance(value.func, ast.Attribute) and value.func.attr == "new_empty":
        return True
    sizes = [a for a in value.args if not isinstance(a, (ast.List, ast.Tuple))]
    return maker in (torch.Tensor, torch.FloatTensor) and len(sizes) == len(value.args) > 0


def _is_parameter(method: Method, value: ast.expr, empties: set[str]) -> bool:
    if not (isinstance(value, ast.Call) and value.args):
        return False
    made = method.resolve(value.func)
    is_parameter = isinstance(made, type) and issubclass(made, nn.Parameter)
    return is_parameter and _is_empty(method, value.args[0], empties)


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


def _filled(methods: Iterable[Method], name: str, made: ast.AST) -> bool:
    """Whether something may fill it: a mention outside of forward, a change in place in it."""
    own = {id(node) for node in ast.walk(made)}
    for method in methods:
        for node in ast.walk(method.node):
            attribute = method.attribute(node) or ""
            if attribute.split(".")[0] != name or id(node) in own:
                continue
            if method.name != "forward" or _writes(attribute, node):
                return True
    return False


def _writes(attribute: str, node: ast.AST) -> bool:
    """Whether ``self.name.copy_`` or a target of an assignment is what mentions it."""
    last = attribute.rpartition(".")[2]
    changes = last.endswith("_") and hasattr(Tensor, last)
    return changes or isinstance(getattr(node, "ctx", None), ast.Store)


RULE = Rule(
    name="unfilled-memory",
    severity="error",
    what="A parameter or buffer made by torch.empty, empty_like or torch.Tensor(sizes) that no "
    "method of its class fills.",
    why="It holds whatever stood there before: other numbers in every process, huge or NaN at "
    "times, and none that a seed repeats.",
    mend="Fill it: nn.init.kaiming_uniform_(self.weight), or make it of torch.zeros or randn.",
    before="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(20, 5))

    def forward(self, x):
        return x @ self.weight
""",
    after="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(20, 5))
        nn.init.kaiming_uniform_(self.weight)

    def forward(self, x):
        return x @ self.weight
""",
    find=find,
)
