"""In-place operations on what the caller passed in."""

import ast
from collections.abc import Iterable, Iterator

from torch import nn

from chimera.check.context import Context
from chimera.check.inplace import base, changed_by
from chimera.check.rule import Place, Rule
from chimera.check.source import Method

_TENSORS = frozenset(
    text.format(tensor)
    for tensor in ("Tensor", "torch.Tensor")
    for text in ("{}", "Optional[{}]", "{} | None", "None | {}")
)
"""Annotations of an argument that is a tensor; one of a list of tensors is none."""


def find(context: Context) -> Iterable[Place]:
    lines: set[int | None] = set()
    paths: set[str] = set()
    for place in _written(context):
        lines.add(place.line)
        paths.add(place.path)
        yield place
    experiment = context.experiment
    if experiment is None or experiment.evaluation is None:
        return
    tape = experiment.evaluation
    given = {value.storage: value.name for value in tape.inputs if value.storage}
    for op in tape.ops:
        changed = op.kwargs.get("out", op.inputs[0] if op.inplace and op.inputs else None)
        name = given.get(getattr(changed, "storage", 0))
        if name is None or op.line in lines or (op.line is None and "" in paths):
            continue
        lines.add(op.line)
        paths.add(op.path)
        yield Place(
            op.path,
            f"{op.name} changes the network's {name} in place",
            op.file,
            op.line,
        )


def _written(context: Context) -> Iterable[Place]:
    """What the source of each forward shows."""
    for path, module, method in context.forwards():
        for node, name in _Follow(method, module).changes():
            yield Place(
                path,
                f"forward of {method.owner.__name__} changes its input `{name}` in place: "
                f"{ast.unparse(node)}",
                method.file.path,
                node.lineno,
            )


class _Follow:
    """The statements of a forward in order, with the names that still mean the caller's tensors."""

    def __init__(self, method: Method, module: nn.Module) -> None:
        self.method = method
        self.module = module

    def changes(self) -> Iterator[tuple[ast.stmt | ast.Call, str]]:
        mine = {name for name in self.method.inputs if self._is_tensor(name)}
        yield from self._block(self.method.node.body, mine)

    def _is_tensor(self, name: str) -> bool:
        """Whether an argument is a tensor: the first, if nothing says otherwise; others, if their
        annotation says so."""
        arguments = self.method.node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.arg == name and argument.annotation is not None:
                return ast.unparse(argument.annotation).strip("'\"") in _TENSORS
        return name == self.method.inputs[0]

    def _block(
        self, body: list[ast.stmt], mine: set[str]
    ) -> Iterator[tuple[ast.stmt | ast.Call, str]]:
        """Follow a block; ``mine`` is changed to what holds at its end."""
        for statement in body:
            if isinstance(statement, (ast.If, ast.For, ast.While, ast.With, ast.Try)):
                yield from self._compound(statement, mine)
                continue
            yield from self._calls(statement, mine)
            if isinstance(statement, ast.AugAssign):
                name = base(statement.target)
                if name in mine:
                    yield statement, name
            for target, value in _assignments(statement):
                if isinstance(target, ast.Subscript):
                    name = base(target)
                    if name in mine:
                        yield statement, name
                elif isinstance(target, ast.Name):
                    same = isinstance(value, ast.Name) and value.id in mine
                    (mine.add if same else mine.discard)(target.id)

    def _compound(
        self, statement: ast.stmt, mine: set[str]
    ) -> Iterator[tuple[ast.stmt | ast.Call, str]]:
        for head in ("test", "iter"):
            if hasattr(statement, head):
                yield from self._calls(getattr(statement, head), mine)
        if isinstance(statement, ast.If) and _asks_for_inplace(statement.test):
            return
        after: set[str] = set()
        ends = [set(mine)] if not isinstance(statement, ast.With) else []
        for block in ("body", "orelse", "finalbody"):
            part = getattr(statement, block, [])
            if part:
                inside = set(mine)
                yield from self._block(part, inside)
                if not isinstance(part[-1], (ast.Return, ast.Raise)):
                    ends.append(inside)
        if isinstance(statement, ast.If) and statement.orelse:
            ends = ends[1:]
        for end in ends:
            after |= end
        mine.clear()
        mine.update(after)

    def _calls(self, node: ast.AST, mine: set[str]) -> Iterator[tuple[ast.Call, str]]:
        for call in _decided(node):
            name = changed_by(call, self.method, self.module)
            if isinstance(call, ast.Call) and name in mine:
                yield call, name


def _asks_for_inplace(test: ast.AST) -> bool:
    """Whether a condition asks for a setting, as in ``if self.inplace``: then a caller asked."""
    return any(
        "inplace" in str(getattr(part, "attr", getattr(part, "id", ""))) for part in ast.walk(test)
    )


def _decided(node: ast.AST) -> Iterator[ast.AST]:
    """Every node of an expression, those that a setting decides about left out."""
    if isinstance(node, ast.IfExp) and _asks_for_inplace(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _decided(child)


def _assignments(statement: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, (ast.Tuple, ast.List)):
                yield from ((part, None) for part in target.elts)
            else:
                yield target, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        yield statement.target, statement.value


RULE = Rule(
    name="inplace-on-input",
    severity="warning",
    what="A forward that changes its own input in place: x += 1, x.mul_(2), x[0] = 0, "
    "F.relu(x, inplace=True), a layer with inplace=True as the first one.",
    why="The caller's tensor is changed: a second call, another branch or the residual sum sees "
    "other numbers, and autograd may refuse.",
    mend="Compute a new tensor (x = x + 1), or work on x.clone().",
    before="""\
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        x += 1
        return x
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        x = x + 1
        return x
""",
    find=find,
)
