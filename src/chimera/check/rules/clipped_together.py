"""Gradients of a Stack that are clipped as one."""

import ast
from collections.abc import Iterable, Iterator

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import ClassSource

_CLIPS = ("clip_grad_norm_", "clip_grads_with_norm_", "get_total_norm")


def find(context: Context) -> Iterable[Place]:
    seen: set[str] = set()
    for path, source in context.classes():
        if source.file is None or source.file.path in seen:
            continue
        seen.add(source.file.path)
        scopes = list(source.file.scopes())
        # What is set on an object in one method is read in another.
        kept = {name for scope in scopes for name in _stacks(scope) if "." in name}
        for scope in scopes:
            stacks = kept | _stacks(scope)
            for node in _nodes(scope):
                if isinstance(node, ast.Call) and node.args and _clips(node.func, source):
                    named = {
                        ast.unparse(n)
                        for n in ast.walk(node.args[0])
                        if isinstance(n, (ast.Name, ast.Attribute))
                    }
                    if named & stacks:
                        yield Place(
                            path,
                            f"{ast.unparse(node)} clips all members of the stack by one norm",
                            source.file.path,
                            node.lineno,
                        )


def _stacks(scope: list[ast.stmt]) -> set[str]:
    """The names of stacks, and of lists of their parameters."""
    found: set[str] = set()
    assigned = [node for node in _nodes(scope) if isinstance(node, ast.Assign)]
    for node in sorted(assigned, key=lambda node: node.lineno):
        if _is_stack(node.value) or any(
            isinstance(part, ast.Attribute)
            and part.attr == "parameters"
            and ast.unparse(part.value) in found
            for part in ast.walk(node.value)
        ):
            found |= {ast.unparse(target) for target in node.targets}
    return found


def _nodes(scope: list[ast.stmt]) -> Iterator[ast.AST]:
    for statement in scope:
        if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield from ast.walk(statement)


def _is_stack(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) in (
        "ch.Stack",
        "chimera.Stack",
        "Stack",
    )


def _clips(function: ast.expr, source: ClassSource) -> bool:
    """Whether a function is one that clips, under its own name or another."""
    name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
    known = (method.resolve(function) for method in source.methods.values())
    return name in _CLIPS or any(getattr(one, "__name__", None) in _CLIPS for one in known)


RULE = Rule(
    name="clipped-together",
    severity="error",
    what="clip_grad_norm_ on the parameters of a Stack, in the file of the network.",
    why="The norm runs over all members together: a member is scaled by what the others do, and "
    "is no longer what it is alone.",
    mend="Clip each member by its own norm, over all axes of its gradients but the first.",
    before="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x)


def train(nets, x):
    stack = ch.Stack(nets)
    stack(x).sum().backward()
    torch.nn.utils.clip_grad_norm_(stack.parameters(), 1.0)
    return stack
""",
    after="""\
import chimera as ch
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 5)

    def forward(self, x):
        return self.linear(x)


def train(nets, x):
    stack = ch.Stack(nets)
    stack(x).sum().backward()
    squares = sum(p.grad.flatten(1).square().sum(1) for p in stack.parameters())
    scale = (1.0 / squares.sqrt()).clamp(max=1.0)
    for p in stack.parameters():
        p.grad.mul_(scale.view(-1, *[1] * (p.dim() - 1)))
    return stack
""",
    find=find,
)
