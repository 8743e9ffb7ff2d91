"""A parameter that arithmetic has turned into a plain tensor."""

import ast
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method
from chimera.paths.structure import own_attributes


def find(context: Context) -> Iterable[Place]:
    for path, module in context.modules:
        said: set[str] = set()
        for name, place in _written(context, path, module):
            said.add(name)
            yield place
        if not context.fresh:
            continue
        for name, value in own_attributes(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None and name not in said:
                file, line = context.assigned(type(module), name)
                yield Place(
                    path,
                    f"`{name}` is a plain tensor that the constructor computed from a parameter",
                    file,
                    line,
                )


def _written(context: Context, path: str, module: nn.Module) -> Iterator[tuple[str, Place]]:
    """What the constructor says, by attribute."""
    kind = type(module)
    running = {id(m.node) for m in context.reached(kind, "forward")}
    for method in context.reached(kind, "__init__"):
        if id(method.node) in running:
            continue
        for node in ast.walk(method.node):
            if not isinstance(node, ast.Assign) or not _is_derived(method, node.value):
                continue
            for name in (n for target in node.targets for n in method.sets(target)):
                value = own_attributes(module).get(name)
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    yield (
                        name,
                        Place(
                            path,
                            f"`{name}` is a plain tensor: {ast.unparse(node.value)} computes one "
                            "from the parameter",
                            method.file.path,
                            node.lineno,
                        ),
                    )


def _is_derived(method: Method, value: ast.expr) -> bool:
    """Whether a value is computed from a parameter that is made in the same expression."""
    makes = any(
        isinstance(node, ast.Call) and _is_parameter(method.resolve(node.func))
        for node in ast.walk(value)
    )
    outermost = isinstance(value, ast.Call) and method.resolve(value.func)
    return makes and not (
        isinstance(outermost, type) and issubclass(outermost, (nn.Parameter, nn.Module))
    )


def _is_parameter(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Parameter)


RULE = Rule(
    name="parameter-lost",
    severity="error",
    what="A constructor that sets an attribute to something computed from a new nn.Parameter: "
    "nn.Parameter(...) * 0.1, nn.Parameter(...).to(device).",
    why="The result of arithmetic, and of .to(), is a plain tensor: parameters() does not hold it, "
    "it is not trained, not saved, not moved.",
    mend="Compute first: nn.Parameter(torch.randn(20, 5) * 0.1).",
    before="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 5)) * 0.1

    def forward(self, x):
        return x @ self.weight
""",
    after="""\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 5) * 0.1)

    def forward(self, x):
        return x @ self.weight
""",
    find=find,
)
