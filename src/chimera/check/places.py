"""Where the source makes the modules of a network.

A path is followed from the root: an attribute to the expression that a method sets it to, a
container to what it is given, a function to what it returns. Where several expressions may have
made a module, none is said to have.
"""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType

from torch import nn

from chimera.check.context import Context, is_super
from chimera.check.source import SourceFile, last_line, users
from chimera.check.written import REGISTER, Reader, Written, chosen, may_be_named, returns
from chimera.paths.walk import join

_DEEPEST = 60


@dataclass
class Trail:
    """The way through the source to where a module is made.

    Attributes:
        parts: the expressions on it: what makes a module that holds it, or it, outermost first.
        others: expressions of which one makes the module, or what holds it: which, is not known.
        arrived: whether the last of ``parts`` makes the module, or a container that is not of a
            user's class and holds it.
        at: the path of what the last of ``parts`` makes.
    """

    parts: list[Written] = field(default_factory=list)
    others: list[Written] = field(default_factory=list)
    arrived: bool = False
    at: str = ""


class Places:
    """Where the modules of one network are made."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reader = Reader(context.sources)
        self._modules = dict(context.paths)
        self._known: dict[str, Trail] = {}

    def of(self, path: str) -> tuple[SourceFile, int] | None:
        """The line that makes the module at ``path``, of the root the line of its class; None
        where it is not surely known."""
        trail = self.trail(path)
        if trail.arrived:
            part = trail.parts[-1]
            return part.method.file, self._reader.itself(part).node.lineno
        root = self._context.root
        if path or root is None or not any(kind is type(root) for kind in users(type(root))):
            return None
        found = self._context.sources.statement(type(root))
        return None if found is None else (found[0], found[1].lineno)

    def trail(self, path: str) -> Trail:
        """The way to where the module at ``path`` is made."""
        if path not in self._known:
            self._known[path] = self._followed(path)
        return self._known[path]

    def _followed(self, path: str) -> Trail:
        trail = Trail()
        if path in self._modules:
            factory = self._context.factory
            while isinstance(factory, functools.partial):
                factory = factory.func
            if isinstance(factory, FunctionType):
                found = self._context.sources.function(factory)
                ends = [] if found is None else returns(found, None)
                if len(ends) == 1:
                    self._follow(trail, ends[0], "", path.split(".") if path else [])
            elif path:
                self._enter(trail, "", path.split("."))
            owner, rest = self.owner(path)
            if owner is not None and trail.at != path and len(owner) >= len(trail.at):
                # What makes the owner is not known, but its class is.
                self._enter(trail, owner, rest)
        return trail

    def owner(self, path: str) -> tuple[str | None, list[str]]:
        """The path of the module of a user's class that holds the one at ``path``, and the names
        from there on."""
        names = path.split(".") if path else []
        for depth in range(len(names) - 1, -1, -1):
            above = ".".join(names[:depth])
            if above in self._modules and any(users(type(self._modules[above]))):
                return above, names[depth:]
        return None, []

    def _enter(self, trail: Trail, at: str, rest: list[str]) -> None:
        """Go on inside the module of a user's class at ``at``."""
        trail.arrived = False
        module = self._modules.get(join(at, rest[0]))
        owner = self._modules.get(at)
        if module is None or owner is None:
            return
        part = self._one(trail, _last(list(self._set(type(owner), rest[0]))), module)
        if part is not None:
            self._follow(trail, part, join(at, rest[0]), rest[1:])

    def _follow(self, trail: Trail, part: Written, at: str, rest: list[str]) -> None:
        """Go on from the expression that makes the module at ``at``."""
        trail.parts.append(part)
        trail.arrived, trail.at = True, at
        module = self._modules[at]
        if len(trail.parts) > _DEEPEST:
            return
        inner = self._reader.itself(part)
        if isinstance(inner.node, ast.Name):
            if self._replaced(trail, inner, at, rest):
                return
            before = [one for one in self._reader.assigned(inner) if one not in trail.parts]
            if len(before) == 1:
                self._follow(trail, before[0], at, rest)
            return
        if isinstance(inner.node, ast.IfExp):
            sides = [inner.beside(node) for node in (inner.node.body, inner.node.orelse)]
            if (side := self._one(trail, sides, module)) is not None:
                self._follow(trail, side, at, rest)
            return
        ends = self._reader.returned(inner)
        if ends:
            if (end := self._one(trail, ends, module)) is not None:
                self._follow(trail, end, at, rest)
            return
        if not rest:
            return
        if any(users(type(module))):
            self._enter(trail, at, rest)
        elif isinstance(inner.node, ast.Call) and self._reader.made(inner) is not None:
            self._hold(trail, inner, at, rest)

    def _hold(self, trail: Trail, part: Written, at: str, rest: list[str]) -> None:
        """Go on inside the container that a call makes."""
        child = self._modules.get(join(at, rest[0]))
        given = [*self._reader.given(part), *self._filled(trail, part)]
        parts = [one for one in chosen(rest[0], given) if one not in trail.parts]
        if child is None or not parts:
            return
        found = self._one(trail, parts, child)
        if found is not None and isinstance(found.node, ast.Call | ast.Name):
            self._follow(trail, found, join(at, rest[0]), rest[1:])

    def _filled(self, trail: Trail, part: Written) -> Iterator[Written]:
        """What is put into a container once it is made: ``self.layers.append(...)``."""
        for holder in self._holders(part):
            yield from self._reader.filled(part, holder)

    def _holders(self, part: Written) -> list[str]:
        """The names, ``self.layers``, that an expression is assigned to."""
        return [
            ast.unparse(target)
            for node in ast.walk(part.method.node)
            if isinstance(node, ast.Assign) and node.value is part.node
            for target in node.targets
        ]

    def _replaced(self, trail: Trail, part: Written, at: str, rest: list[str]) -> bool:
        """Whether ``net.head = ...`` stands before ``return net``; if so, go on from there."""
        assert isinstance(part.node, ast.Name)
        for node in ast.walk(part.method.node):
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
                continue
            name, _, inner = ast.unparse(node.targets[0]).partition(".")
            steps = inner.split(".")
            if name == part.node.id and rest[: len(steps)] == steps:
                self._follow(trail, part.beside(node.value), join(at, inner), rest[len(steps) :])
                return True
        return False

    def _one(self, trail: Trail, parts: list[Written], module: nn.Module) -> Written | None:
        """The one of several expressions that can have made ``module``."""
        told = [(part, self._reader.could_make(part, module)) for part in parts]
        fitting = [part for part, could in told if could is not False]
        if len(fitting) == 1:
            return fitting[0]
        trail.others += fitting
        return None

    def _set(self, kind: type, name: str) -> Iterator[Written]:
        """The expressions that methods of a class set ``self.name`` to."""
        for source in self._context.sources.all_of(kind):
            for method in source.methods.values():
                here = Written(ast.Constant(None), method, kind)
                for node in ast.walk(method.node):
                    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                        for target in targets:
                            yield from _unpacked(here, target, node.value, name)
                    elif isinstance(node, ast.Call):
                        yield from _registered(here, node, name)


def _last(parts: list[Written]) -> list[Written]:
    """Of the expressions that an attribute is set to, in order of resolution, the one that is set
    at last, where a constructor surely does so; else all."""
    own = [part for part in parts if part.method.owner is parts[0].method.owner]
    if any(part.method.name != "__init__" for part in parts) or not own:
        return parts
    method = own[0].method
    calls = [node for node in ast.walk(method.node) if isinstance(node, ast.Call)]
    supers = [node.lineno for node in calls if is_super(node)]
    last = max(own, key=lambda part: part.node.lineno)
    surely = any(
        isinstance(statement, (ast.Assign, ast.AnnAssign))
        and statement.lineno <= last.node.lineno <= last_line(statement)
        for statement in method.node.body
    )
    return [last] if surely and last.node.lineno > max(supers, default=0) else parts


def _unpacked(here: Written, target: ast.expr, value: ast.expr, name: str) -> Iterator[Written]:
    """The part of ``value`` that an assignment gives to ``self.name``."""
    if name not in here.method.sets(target):
        return
    if isinstance(target, (ast.Tuple, ast.List)):
        if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts):
            for one, inner in zip(target.elts, value.elts, strict=True):
                yield from _unpacked(here, one, inner, name)
            return
        if isinstance(value, (ast.GeneratorExp, ast.ListComp)):
            value = value.elt
    yield here.beside(value)


def _registered(here: Written, call: ast.Call, name: str) -> Iterator[Written]:
    """The module that ``self.add_module(name, ...)`` or ``setattr(self, name, ...)`` sets."""
    method = here.method
    if method.attribute(call.func) in REGISTER and len(call.args) == 2:
        key, value = call.args
    elif ast.unparse(call.func) == "setattr" and len(call.args) == 3 and method.is_me(call.args[0]):
        key, value = call.args[1:]
    else:
        return
    if may_be_named(key, name):
        yield here.beside(value)
