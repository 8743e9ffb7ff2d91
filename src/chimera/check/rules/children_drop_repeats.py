"""A chain over ``children()``, which gives a module that is registered twice only once."""

import ast
from collections.abc import Iterable, Iterator

from torch import nn

from chimera.check.context import Context
from chimera.check.rule import Place, Rule
from chimera.check.source import Method
from chimera.paths.walk import every_path, join

_LISTERS = {"children": 1, "named_children": 1, "modules": None, "named_modules": None}


def find(context: Context) -> Iterable[Place]:
    calls: dict[int, list[tuple[ast.Call, str, ast.expr]]] = {}
    for path, module in context.modules:
        for method in context.reached(type(module), "forward"):
            if id(method.node) not in calls:
                calls[id(method.node)] = list(_calls(method))
            for call, owner, lister in _loops(method, module, calls[id(method.node)]):
                for first, again in _repeats(owner, lister):
                    names = f"`{join(path, first)}` and `{join(path, again)}`"
                    yield Place(
                        path,
                        f"{names} are one module, and {method.name} of "
                        f"{type(module).__name__} loops over {ast.unparse(call)}, which gives it "
                        f"once: `{join(path, again)}` never runs",
                        method.file.path,
                        call.lineno,
                    )


def _calls(method: Method) -> Iterator[tuple[ast.Call, str, ast.expr]]:
    """The calls of children() and its like whose modules the method runs, each with the lister's
    name and the expression of what is listed."""
    run = {id(call) for loop in ast.walk(method.node) for call in _listed_and_called(loop)}
    run |= set(_kept_and_called(method))
    for call in ast.walk(method.node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            lister, listed = call.func.attr, call.func.value
            if lister in _LISTERS and id(call) in run:
                yield call, lister, listed


def _loops(
    method: Method, module: nn.Module, calls: list[tuple[ast.Call, str, ast.expr]]
) -> Iterator[tuple[ast.Call, tuple[str, nn.Module], str]]:
    """The calls, each with the module that is listed (and its path in ``module``) and the lister's
    name."""
    for call, lister, listed in calls:
        path = "" if method.is_me(listed) else method.attribute(listed)
        if path is None:
            continue
        try:
            owner = module.get_submodule(path)
        except AttributeError:
            continue
        yield call, (path, owner), lister


_ITERATES = frozenset(("list", "tuple", "iter", "reversed", "enumerate"))


def _iterated(value: ast.expr) -> ast.expr | None:
    """``y`` of ``list(y)``, ``[*y]``, ``y[:-1]``, ``[m for m in y]`` and ``[m for _, m in y]``."""
    if isinstance(value, ast.ListComp) and isinstance(value.elt, ast.Name):
        taken = ast.walk(value.generators[0].target)
        if value.elt.id in [name.id for name in taken if isinstance(name, ast.Name)]:
            return value.generators[0].iter
    if isinstance(value, ast.Subscript):
        return value.value
    if isinstance(value, ast.List) and len(value.elts) == 1:
        return value.elts[0].value if isinstance(value.elts[0], ast.Starred) else None
    if isinstance(value, ast.Call) and value.args and ast.unparse(value.func) in _ITERATES:
        return value.args[0]
    return None


def _kept_and_called(method: Method) -> Iterator[int]:
    """The calls whose list a local name keeps, where a loop, next() or pop() runs what is in
    it."""
    for node in ast.walk(method.node):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        value: ast.expr = node.value
        while inner := _iterated(value):
            value = inner
        name = node.targets[0].id
        for other in ast.walk(method.node):
            names = [n.id for n in _listed_and_called(other) if isinstance(n, ast.Name)]
            starts = (f"next({name})", f"{name}.pop(", f"{name}.popleft(")
            taken = isinstance(other, ast.Call) and ast.unparse(other).startswith(starts)
            if name in names or taken:
                yield id(value)


def _listed_and_called(loop: ast.AST) -> Iterator[ast.AST]:
    """The calls in what a loop goes over, where the loop calls what it goes over."""
    body: list[ast.AST]
    if isinstance(loop, ast.For):
        heads, body = [(loop.target, loop.iter)], [*loop.body]
    elif isinstance(loop, (ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)):
        heads = [(part.target, part.iter) for part in loop.generators]
        body = [loop.value if isinstance(loop, ast.DictComp) else loop.elt]
    else:
        # nn.Sequential(*self.children())(x), functools.reduce(..., self.children(), x)
        if isinstance(loop, ast.Call):
            reduces = ast.unparse(loop.func).split(".")[-1] == "reduce"
            yield from (p for p in loop.args if reduces and isinstance(p, ast.Call))
            yield from (p.value for p in loop.args if isinstance(p, ast.Starred))
        return
    for target, source in heads:
        names = {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
        called = {
            node.func.id
            for part in body
            for node in ast.walk(part)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if names & called:
            yield from ast.walk(source)


def _repeats(owner: tuple[str, nn.Module], lister: str) -> Iterator[tuple[str, str]]:
    """The names, in the listed module's parent, of modules that the lister gives only once."""
    prefix, root = owner
    depth = _LISTERS[lister]
    first: dict[nn.Module, str] = {}
    for path, module in every_path(root):
        if path == "" or (depth is not None and path.count(".") >= depth):
            continue
        if module in first:
            yield join(prefix, first[module]), join(prefix, path)
        else:
            first[module] = path


RULE = Rule(
    name="children-drop-repeats",
    severity="error",
    what="A forward that runs what children() or modules() gives, in a module in which one layer "
    "stands at two names.",
    why="children() and modules() give each module once, so that the repeated layer is left out, "
    "silently.",
    mend="Use ch.Sequential, or loop over an nn.ModuleList, which keeps repeated layers.",
    before="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(20, 20)
        for index, module in enumerate([layer, nn.ReLU(), layer]):
            self.add_module(str(index), module)

    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x
""",
    after="""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(20, 20)
        self.layers = nn.ModuleList([layer, nn.ReLU(), layer])

    def forward(self, x):
        for module in self.layers:
            x = module(x)
        return x
""",
    find=find,
)
