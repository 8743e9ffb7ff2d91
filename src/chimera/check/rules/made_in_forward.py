"""Layers and parameters that are made while the network runs."""

import ast
from collections.abc import Iterable, Iterator

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule

_STATELESS_FILES = frozenset(
    f"torch.nn.modules.{name}"
    for name in (
        "activation",
        "channelshuffle",
        "container",
        "distance",
        "flatten",
        "fold",
        "loss",
        "padding",
        "pixelshuffle",
        "pooling",
        "upsampling",
    )
)
_WITH_STATE = (nn.PReLU, nn.MultiheadAttention, nn.ParameterList, nn.ParameterDict)


def find(context: Context) -> Iterable[Place]:
    said: set[str] = set()
    for place in _written(context):
        said.add(place.path)
        yield place
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    # What other functions make, and what is found by other names.
    for op in experiment.training.ops:
        made = any(value.foreign and value.made for value in op.inputs)
        if made and op.path not in said:
            said.add(op.path)
            yield Place(op.path, "a parameter is made in the call", op.file, op.line)


def _written(context: Context) -> Iterable[Place]:
    """What the methods that run make."""
    for path, method in context.running():
        for call, guarded in _calls(method.node, guarded=False):
            kind = method.resolve(call.func)
            if not (isinstance(kind, type) and _has_state(kind)):
                continue
            once = ", the first time" if guarded else ""
            yield Place(
                path,
                f"{method.name} of {method.owner.__name__} makes a {kind.__name__}{once}: "
                f"{ast.unparse(call)}",
                method.file.path,
                call.lineno,
                # Under a condition it may be made once, and only be missed by the optimizer.
                severity="warning" if guarded else None,
            )


def _has_state(kind: type) -> bool:
    if issubclass(kind, nn.Parameter):
        return True
    if not issubclass(kind, nn.Module):
        return False
    return issubclass(kind, _WITH_STATE) or kind.__module__ not in _STATELESS_FILES


def _calls(node: ast.AST, guarded: bool) -> Iterator[tuple[ast.Call, bool]]:
    """The calls in ``node``, each with whether a condition decides about it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, guarded
        inside = guarded or isinstance(child, (ast.If, ast.IfExp, ast.Try))
        yield from _calls(child, inside)


RULE = Rule(
    name="made-in-forward",
    severity="error",
    what="A layer with parameters or modes, or a parameter, that is made in forward.",
    why="It is new at every call: drawn anew, never trained, not saved, not in the optimizer; a "
    "Dropout made there is always on.",
    mend="Make it in the constructor; where its size is not known there, use a lazy layer.",
    before="""\
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        return nn.Linear(20, 10)(x)
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        return self.linear(x)
""",
    find=find,
)
