"""An in-place operation at the start of a residual branch."""

import ast
from collections.abc import Iterable

import torch

from chimera.check.context import Context
from chimera.check.inplace import changed_by
from chimera.check.operations import Op, Visit
from chimera.check.rule import Place, Rule
from chimera.check.source import Method
from chimera.check.tape import Tape

_SUMS = frozenset(("add", "add_", "sub", "mul", "cat", "concat", "__radd__"))


def find(context: Context) -> Iterable[Place]:
    found = [*_by_calls(context)]
    yield from found
    lines = {(place.file, place.line) for place in found}
    yield from (p for p in _in_own_code(context) if (p.file, p.line) not in lines)


def _by_calls(context: Context) -> Iterable[Place]:
    """Branches that are modules, as a run shows them."""
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    tape = experiment.training
    seen: set[str] = set()
    for visit in tape.visits:
        if not visit.module._modules or visit.path in seen:
            continue
        for op in tape.inside(visit):
            if op.inplace and op.inputs and op.inputs[0] in visit.inputs:
                later = _read_again(tape, visit, op)
                if later is not None:
                    seen.add(visit.path)
                    yield Place(
                        op.path,
                        f"{op.name} in place at the start of the branch `{visit.path}` changes "
                        f"what {later.name} reads afterwards",
                        later.file,
                        later.line,
                        mend="Write inplace=False there.",
                    )
                    break


def _in_own_code(context: Context) -> Iterable[Place]:
    """A tensor that a forward changes in place on the way into a branch, and adds by another name
    or by its old one: ``out = self.relu(x)``, then ``out + x``."""
    for path, module, method in context.forwards():
        meant = {name: name for name in method.inputs}
        changed: dict[str, ast.Call] = {}
        for statement in method.node.body:
            for part in ast.walk(statement):
                if not isinstance(part, ast.BinOp | ast.AugAssign | ast.Call):
                    continue
                for name in _summed(part, method):
                    call = changed.pop(meant.get(name, ""), None)
                    if call is not None:
                        yield Place(
                            path,
                            f"{ast.unparse(call)} works in place: `{name}`, which "
                            f"{ast.unparse(part)} reads afterwards, is changed by it",
                            method.file.path,
                            part.lineno,
                            mend="Write inplace=False there, or F.relu for F.relu_.",
                        )
            target, value = _named(_first_turn(statement))
            if target is None or value is None:
                continue
            for part in ast.walk(value):
                given = changed_by(part, method, module)
                if given in meant and isinstance(part, ast.Call):
                    old = meant[given]
                    # What is changed and has no other name is meant to be changed.
                    if any(meant[other] == old for other in meant if other != target):
                        changed[old] = part
            same = meant.get(value.id) if isinstance(value, ast.Name) else None
            meant[target] = same or f"{target} of line {statement.lineno}"


def _first_turn(statement: ast.stmt) -> ast.stmt:
    """Of a loop over a list of layers that only hands on, ``for layer in self.layers: y =
    layer(y)``, what its first turn does: ``y = self.layers(y)``, as if they were a chain."""
    if not (isinstance(statement, ast.For) and isinstance(statement.iter, ast.Attribute)):
        return statement
    inner = statement.body[0] if len(statement.body) == 1 else None
    if isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Call):
        called = inner.value
        if ast.unparse(called.func) == ast.unparse(statement.target):
            call = ast.copy_location(ast.Call(statement.iter, called.args, called.keywords), called)
            return ast.copy_location(ast.Assign(inner.targets, call), inner)
    return statement


def _named(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    """The one name that a statement sets, and to what."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Name):
            return target.id, statement.value
    return None, None


def _summed(node: ast.BinOp | ast.AugAssign | ast.Call, method: Method) -> list[str]:
    """The names that a sum of two tensors reads: ``a + b``, ``torch.add(a, b)``."""
    parts: list[ast.expr]
    if isinstance(node, ast.Call):
        sums = method.resolve(node.func) in (torch.add, torch.sub)
        return [part.id for part in node.args[:2] if sums and isinstance(part, ast.Name)]
    parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.target, node.value]
    if not isinstance(node.op, ast.Add | ast.Sub):
        return []
    if any(isinstance(part, ast.Constant) for part in parts):
        return []
    return [part.id for part in parts if isinstance(part, ast.Name)]


def _read_again(tape: Tape, visit: Visit, op: Op) -> Op | None:
    """A sum, after the branch, of its result and of the tensor that it changed."""
    if op.outputs[0] in visit.outputs:
        return None
    after = {v for output in visit.outputs for v in tape.descendants(output)}
    for reader in op.outputs[0].readers:
        if (
            reader.index >= visit.end
            and reader.name in _SUMS
            and any(value in after for value in reader.inputs if value is not op.outputs[0])
        ):
            return reader
    return None


RULE = Rule(
    name="inplace-in-branch",
    severity="warning",
    what="A residual branch whose first step works in place, such as nn.ReLU(inplace=True), "
    "although the sum reads its input again. Needs the specification.",
    why="The sum adds the changed input, not the one that came in: it is not the network that is "
    "written, and nothing is raised.",
    mend="Leave out inplace=True in the first step of the branch.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(20, 20))

    def forward(self, x):
        x = x.clone()
        return x + self.branch(x)


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(), nn.Linear(20, 20))

    def forward(self, x):
        x = x.clone()
        return x + self.branch(x)


spec = ch.spec(2, 20)
""",
    find=find,
)
