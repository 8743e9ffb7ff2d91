"""Expressions that make modules: what one can make, and what a container is given, in order."""

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

from torch import nn

from chimera.check.source import Function, Method, Sources

_SAME = frozenset(
    ("requires_grad_", "to", "to_empty", "cuda", "cpu", "half", "float", "double", "bfloat16")
) | {"eval", "train", "apply", "type"}
"""Methods of a module that give the module itself."""


@dataclass(frozen=True)
class Written:
    """An expression, and the function that it stands in.

    Attributes:
        node: the expression.
        method: the function.
        kind: the class of the module that is ``self`` there; None in a plain function.
        key: the expression of the name that a container gives it, or None.
        many: whether it may stand for several modules, or for none: in a loop, under an ``if``.
    """

    node: ast.expr
    method: Method
    kind: type | None = None
    key: ast.expr | None = None
    many: bool = False

    def beside(self, node: ast.expr, key: ast.expr | None = None, many: bool = False) -> "Written":
        """Another expression of the same function."""
        return replace(self, node=node, key=key, many=many or self.many)


class Reader:
    """Reads expressions of one network's sources. No code of the network's runs."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def itself(self, part: Written) -> Written:
        """The expression without what gives the module that it is given: ``.to(...)``, a function
        of torch's around it."""
        while isinstance(node := part.node, ast.Call):
            inner: ast.expr | None = None
            if isinstance(node.func, ast.Attribute) and node.func.attr in _SAME:
                inner = node.func.value
            elif _is_libraries(self._called(part)):
                inner = node.args[0] if node.args else None
            if not isinstance(inner, ast.Call | ast.Name):
                break
            part = part.beside(inner)
        return part

    def made(self, part: Written) -> Any:
        """The class that a call is of, or None."""
        found = self._called(part) if isinstance(part.node, ast.Call) else None
        return found if isinstance(found, type) else None

    def could_make(self, part: Written, module: nn.Module) -> bool | None:
        """Whether an expression makes modules of the class of ``module``; None: it may."""
        part = self.itself(part)
        node = part.node
        if isinstance(node, ast.Constant):
            return False
        if isinstance(node, ast.IfExp):
            both = [self.could_make(part.beside(n), module) for n in (node.body, node.orelse)]
            return True if True in both else (None if None in both else False)
        if isinstance(node, ast.Name):
            found = [self.could_make(other, module) for other in self.assigned(part)]
            if not found and isinstance(part.method.resolve(node), type):
                return False  # a class is given, not a module of it
            return found[0] if len(found) == 1 else None
        kind = self.made(part)
        if kind is None:
            return None
        return type(module) in (kind, getattr(kind, "cls_to_become", None)) or (
            isinstance(module, kind) and type(module).__module__.startswith("torch.nn.utils")
        )

    def assigned(self, part: Written) -> list[Written]:
        """What a local name is set to."""
        assert isinstance(part.node, ast.Name)
        return [
            part.beside(node.value)
            for node in _own_nodes(part.method.node)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name) and target.id == part.node.id
        ]

    def returned(self, part: Written) -> list[Written]:
        """What the function of the user's that a call is of returns; nothing for another."""
        if not isinstance(part.node, ast.Call):
            return []
        func = part.node.func
        name = part.method.attribute(func) if part.kind is not None else None
        if name is not None and part.kind is not None:
            method = self._sources.method(part.kind, name)
            return [] if method is None else returns(method, part.kind)
        if isinstance(func, ast.Name):
            for node in ast.walk(part.method.node):
                if isinstance(node, Function) and node.name == func.id:
                    return returns(replace(part.method, name=node.name, node=node), None)
        function = self._called(part)
        if isinstance(function, FunctionType) and not _is_libraries(function):
            found = self._sources.function(function)
            return [] if found is None else returns(found, None)
        return []

    def given(self, part: Written) -> list[Written]:
        """The modules that the call of a container's class is given."""
        assert isinstance(part.node, ast.Call)
        found = []
        for argument in part.node.args:
            one = part.beside(argument)
            if isinstance(argument, ast.Starred):
                found += self.elements(part.beside(argument.value))
            elif _holds(argument) or (len(part.node.args) == 1 and self._listed(one)):
                found += self.elements(one)
            else:
                found.append(one)
        return found

    def elements(self, part: Written) -> list[Written]:
        """The expressions that a list, dict or comprehension is made of; itself, as any number of
        them, where that is not known."""
        node = part.node
        unknown = [replace(part, many=True)]
        if isinstance(node, (ast.List, ast.Tuple)):
            return [
                inner
                for item in node.elts
                for inner in (
                    self.elements(part.beside(item.value))
                    if isinstance(item, ast.Starred)
                    else [self._pair(part.beside(item))]
                )
            ]
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            return [part.beside(value, key, many=key is None) for key, value in pairs]
        if isinstance(node, ast.DictComp):
            return [part.beside(node.value, node.key, many=True)]
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            return [self._pair(part.beside(node.elt, many=True))]
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, ast.Add):
                return [
                    one
                    for side in (node.left, node.right)
                    for one in self.elements(part.beside(side))
                ]
            inside = [side for side in (node.left, node.right) if _holds(side)]
            return [
                replace(one, many=True) for n in inside for one in self.elements(part.beside(n))
            ]
        if isinstance(node, ast.Name):
            return self._local(part) or unknown
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name | ast.Attribute) and node.args:
                called = ast.unparse(node.func).rpartition(".")[2]
                if called in ("OrderedDict", "dict", "list", "tuple"):
                    return self.elements(part.beside(node.args[0]))
            inner = self.returned(part)
            if len(inner) == 1 and self._listed(inner[0]):
                return [replace(one, many=True) for one in self.elements(inner[0])]
        return unknown

    def _pair(self, part: Written) -> Written:
        """The module of ``("name", module)``."""
        node = part.node
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            return part.beside(node.elts[1], node.elts[0])
        return part

    def _listed(self, part: Written) -> bool:
        """Whether an expression is a list or dict, or a local name of one."""
        node = part.node
        if isinstance(node, ast.Name):
            return any(self._listed(other) for other in self.assigned(part))
        return _holds(node)

    def _local(self, part: Written) -> list[Written]:
        """What a local list is filled with, in the order of the source."""
        assert isinstance(part.node, ast.Name)
        starts = self.assigned(part)
        if not starts:
            return []
        name = part.node.id
        found = [one for start in starts for one in (self.elements(start) if start != part else [])]
        if len(starts) > 1:
            found = [replace(one, many=True) for one in found]
        return [*found, *self.filled(part, name)]

    def filled(self, part: Written, holder: str) -> list[Written]:
        """What the function of ``part`` puts into the container ``holder`` once it is made."""
        found = []
        for node, many in _statements(part.method.node.body):
            if isinstance(node, ast.AugAssign) and ast.unparse(node.target) == holder:
                inside = self.elements(part.beside(node.value))
                found += [replace(one, many=one.many or many) for one in inside]
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                target = node.targets[0]
                if ast.unparse(target.value) == holder:
                    found.append(part.beside(node.value, target.slice, many))
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                func, args = node.value.func, node.value.args
                if not isinstance(func, ast.Attribute) or ast.unparse(func.value) != holder:
                    continue
                if func.attr == "append" and len(args) == 1:
                    found.append(self._pair(part.beside(args[0], many=many)))
                elif func.attr in ("extend", "update") and len(args) == 1:
                    inside = self.elements(part.beside(args[0]))
                    found += [replace(one, many=one.many or many) for one in inside]
                elif func.attr in REGISTER and len(args) == 2:
                    found.append(part.beside(args[1], args[0], many))
                elif func.attr == "insert" and len(args) == 2:
                    found.append(part.beside(args[1], many=True))
        return found

    def _called(self, part: Written) -> Any:
        return part.method.resolve(part.node.func) if isinstance(part.node, ast.Call) else None


def _is_libraries(function: Any) -> bool:
    """Whether something is a function of torch's or of ours."""
    return isinstance(function, FunctionType) and function.__module__.split(".")[0] in (
        "torch",
        "chimera",
    )


REGISTER = ("add_module", "register_module")


def returns(method: Method, kind: type | None) -> list[Written]:
    """What a function returns."""
    return [
        Written(node.value, method, kind)
        for node in _own_nodes(method.node)
        if isinstance(node, ast.Return) and node.value is not None
    ]


def chosen(name: str, parts: list[Written]) -> list[Written]:
    """Of what a container is given, what may be its child ``name``."""
    for part in parts:
        if isinstance(part.key, ast.Constant) and str(part.key.value) == name:
            return [part]
    if name.isdigit():
        index = int(name)
        sure = list(itertools.takewhile(lambda part: not part.many and part.key is None, parts))
        if index < len(sure):
            return [sure[index]]
        parts = parts[len(sure) :]
    return [part for part in parts if may_be_named(part.key, name)]


def may_be_named(key: ast.expr | None, name: str) -> bool:
    """Whether an expression, ``f"layer{i}"``, may be ``name``."""
    if isinstance(key, ast.Constant):
        return str(key.value) == name
    if isinstance(key, ast.JoinedStr):
        pattern = "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+"
            for part in key.values
        )
        return re.fullmatch(pattern, name) is not None
    return True


def _holds(node: ast.expr) -> bool:
    """Whether an expression is a list, a dict or a comprehension."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
        return ast.unparse(node.func).rpartition(".")[2] in ("OrderedDict", "dict", "list", "tuple")
    if isinstance(node, ast.BinOp):
        return _holds(node.left) or _holds(node.right)
    return isinstance(node, _CONTAINERS)


_CONTAINERS = (ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.GeneratorExp, ast.DictComp)


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, but for the functions and classes in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*_SCOPES, ast.Lambda)):
            yield child
            yield from _own_nodes(child)


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _statements(body: Iterable[ast.stmt], many: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """The statements of a body in order, each with whether it stands in a loop or a branch."""
    for statement in body:
        yield statement, many
        if not isinstance(statement, _SCOPES):
            inner = many or isinstance(statement, (ast.For, ast.While, ast.If, ast.Try))
            for block in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, block, []), inner)
