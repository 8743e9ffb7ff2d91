"""The source of classes, parsed, with the files and lines where things stand.

Functions are found by file and first line, which their code objects know, so that two classes of
one name, nested classes and notebooks are told apart.
"""

import ast
import inspect
import linecache
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class SourceFile:
    """One parsed file: its functions by first line, and the classes that enclose each."""

    path: str
    lines: list[str]
    body: list[ast.stmt] = field(default_factory=list)
    functions: dict[int, Function] = field(default_factory=dict)
    classes: dict[int, tuple[ast.ClassDef, ...]] = field(default_factory=dict)

    def line(self, number: int) -> str:
        """The text of a line, counted from 1."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def scopes(self) -> Iterator[list[ast.stmt]]:
        """The statements of the file, and of each of its functions."""
        yield self.body
        for function in self.functions.values():
            yield function.body

    def enclosing(self, number: int) -> Iterator[ast.stmt]:
        """The statements whose text holds the line, outermost first."""
        body: list[ast.stmt] = self.body
        while body:
            inner = [node for node in body if first_line(node) <= number <= last_line(node)]
            yield from inner
            body = [below for node in inner for below in _blocks(node)]

    def named(self, name: str) -> list[ast.ClassDef]:
        """The class statements of a qualified name, ``Outer.Net`` or ``make.<locals>.Net``."""
        found: list[tuple[ast.AST, str]] = [(node, "") for node in self.body]
        classes = []
        while found:
            node, above = found.pop()
            if isinstance(node, ast.ClassDef):
                if above + node.name == name:
                    classes.append(node)
                above = f"{above}{node.name}."
            elif isinstance(node, Function):
                above = f"{above}{node.name}.<locals>."
            found += [(inner, above) for inner in ast.iter_child_nodes(node)]
        return classes


def first_line(node: ast.stmt) -> int:
    """The line on which a statement begins, its decorators with it."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def last_line(node: ast.stmt | ast.expr) -> int:
    """The line on which a statement or an expression ends."""
    return node.end_lineno or node.lineno


def _blocks(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements right inside a statement."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
            yield from child.body


@dataclass(frozen=True)
class Method:
    """A method as it is written: its name, its syntax tree, its file, the class that has it, and
    the global names that it sees."""

    name: str
    node: Function
    file: SourceFile
    owner: type
    namespace: Mapping[str, Any]

    @property
    def me(self) -> str | None:
        """What the method calls the module: the name of its first argument."""
        arguments = [*self.node.args.posonlyargs, *self.node.args.args]
        return arguments[0].arg if arguments else None

    @property
    def inputs(self) -> list[str]:
        """The names of its arguments but the first."""
        spec = self.node.args
        named = [*spec.posonlyargs, *spec.args][1:] + spec.kwonlyargs
        return [argument.arg for argument in named]

    def is_me(self, node: ast.AST) -> bool:
        """Whether ``node`` is the module itself (``self``)."""
        return isinstance(node, ast.Name) and node.id == self.me

    def attribute(self, node: ast.AST) -> str | None:
        """``"a.b"`` where ``node`` is ``self.a.b``, else None."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        return ".".join(reversed(names)) if names and self.is_me(node) else None

    def resolve(self, node: ast.AST) -> Any:
        """What a dotted name such as ``F.dropout`` stands for, or None where that is not known.

        Only modules and classes are looked into, so that no code of a user's runs.
        """
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        value = self.namespace.get(node.id)
        for name in reversed(names):
            if not isinstance(value, (ModuleType, type)):
                return None
            value = inspect.getattr_static(value, name, None)
        return value

    def sets(self, node: ast.expr) -> list[str]:
        """The attributes of ``self`` that are set where ``node`` stands, as a target."""
        if isinstance(node, (ast.Tuple, ast.List)):
            return [name for part in node.elts for name in self.sets(part)]
        if isinstance(node, ast.Starred):
            return self.sets(node.value)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            return [node.attr] if self.is_me(node.value) else []
        return []


class ClassSource:
    """The source of one class of modules: the methods that its own body defines."""

    def __init__(self, kind: type, methods: dict[str, Method]) -> None:
        self.kind = kind
        self.methods = methods

    @cached_property
    def node(self) -> ast.ClassDef | None:
        """The class statement, where a method of it was found."""
        for method in self.methods.values():
            for start, nodes in method.file.classes.items():
                if method.file.functions.get(start) is method.node and nodes:
                    return nodes[-1]
        return None

    @property
    def file(self) -> SourceFile | None:
        """The file of the class, where a method of it was found."""
        return next((method.file for method in self.methods.values()), None)


class Sources:
    """Sources by class, each file read and parsed once."""

    def __init__(self) -> None:
        self._files: dict[str, SourceFile | None] = {}
        self._classes: dict[type, ClassSource] = {}

    def of(self, kind: type) -> ClassSource:
        """What the body of ``kind`` defines; no methods where its source cannot be read."""
        if kind not in self._classes:
            found = {}
            for name, value in vars(kind).items():
                method = self._method(kind, name, value)
                if method is not None:
                    found[name] = method
            self._classes[kind] = ClassSource(kind, found)
        return self._classes[kind]

    def method(self, kind: type, name: str, after: type | None = None) -> Method | None:
        """The method that an instance of ``kind`` runs as ``name``, if a user wrote it.

        With ``after``, the one that ``super()`` finds in a method of that class.
        """
        order = kind.__mro__
        for base in order[order.index(after) + 1 :] if after else order:
            if name in vars(base):
                return self.of(base).methods.get(name) if is_users(base) else None
        return None

    def all_of(self, kind: type) -> Iterator[ClassSource]:
        """The sources of ``kind`` and of the bases that users wrote, in order of resolution."""
        return (self.of(base) for base in users(kind))

    def _method(self, kind: type, name: str, value: Any) -> Method | None:
        if isinstance(value, (staticmethod, classmethod)):
            return None
        if isinstance(value, property):
            value = value.fget
        return self.function(value, kind, name) if callable(value) else None

    def function(self, value: Any, owner: type = object, name: str = "") -> Method | None:
        """A function as it is written, a method of ``owner`` if it is one."""
        function = inspect.unwrap(value)
        if not isinstance(function, FunctionType):
            return None
        code = function.__code__
        file = self.file(code.co_filename)
        node = file.functions.get(code.co_firstlineno) if file else None
        if file is None or node is None or node.name != code.co_name:
            return None
        return Method(name or node.name, node, file, owner, function.__globals__)

    def statement(self, kind: type) -> tuple[SourceFile, ast.ClassDef] | None:
        """The class statement of ``kind`` and its file: by a method of it, or, where its body
        defines none, by its name, if its file holds one such class alone."""
        source = self.of(kind)
        if source.file is not None and source.node is not None:
            return source.file, source.node
        module = sys.modules.get(kind.__module__)
        paths = {getattr(module, "__file__", None)} | {
            other.file.path
            for known, other in self._classes.items()
            if known.__module__ == kind.__module__ and other.file is not None
        }
        files = [file for path in paths if path is not None and (file := self.file(path))]
        found = [(file, node) for file in files for node in file.named(kind.__qualname__)]
        return found[0] if len(found) == 1 else None

    def file(self, path: str) -> SourceFile | None:
        """The parsed file, or None where it is no Python or cannot be read."""
        if path not in self._files:
            lines = linecache.getlines(path)
            try:
                tree = ast.parse("".join(lines))
            except SyntaxError:
                self._files[path] = None
            else:
                self._files[path] = _indexed(path, lines, tree)
        return self._files[path]


def users(kind: type) -> Iterator[type]:
    """The classes that ``kind`` resolves to and that users wrote, in order of resolution."""
    return filter(is_users, kind.__mro__)


def is_users(kind: type) -> bool:
    """Whether a class is neither Python's nor torch's nor ours."""
    return kind.__module__.split(".")[0] not in ("builtins", "typing", "abc", "torch", "chimera")


def _indexed(path: str, lines: list[str], tree: ast.Module) -> SourceFile:
    file = SourceFile(path, lines, tree.body)

    def visit(node: ast.AST, above: tuple[ast.ClassDef, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                start = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                file.functions[start] = child
                file.classes[start] = above
            visit(child, (*above, child) if isinstance(child, ast.ClassDef) else above)

    visit(tree, ())
    return file
