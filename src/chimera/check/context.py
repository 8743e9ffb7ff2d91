"""What a check rule looks at: one network, its tree, its classes and their sources."""

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from chimera.build.inputs import Inputs
from chimera.build.trial import Trial, try_shapes
from chimera.check.batch import passing
from chimera.check.experiment import LARGEST, Experiment, count
from chimera.check.source import ClassSource, Method, Sources, users
from chimera.check.tried import made
from chimera.paths.walk import every_path, join


@dataclass
class Context:
    """One network under check. Rules read it and change nothing.

    Attributes:
        root: the network, or None where only its class is known.
        kinds: classes whose sources are read when there is no network, each with what stands for
            its path.
        spec: what the network takes, as it was given, or None.
        loss: the loss it is trained with, or None.
        sources: the sources of classes.
        failure: what the run without data raised, once it was asked for.
        factory: what makes the network, where it was given as that.
        refused: what its constructor raised, where it did.
        only: the one size of the batch with which the network runs, though the specification
            leaves it free; 0 where there is no such, or nothing has run.
        tried: what a run of the network without data has shown, where there was one.
    """

    root: nn.Module | None
    kinds: tuple[tuple[str, type], ...] = ()
    spec: Inputs | None = None
    loss: Any = None
    sources: Sources = field(default_factory=Sources)
    failure: Exception | None = None
    factory: Callable[[], nn.Module] | None = None
    refused: Exception | None = None
    only: int = 0
    tried: Trial | None = None
    _reached: dict[tuple[type, str], list[Method]] = field(default_factory=dict, repr=False)

    @property
    def fresh(self) -> bool:
        """Whether nothing has run since the constructor."""
        return self.factory is not None

    @cached_property
    def paths(self) -> list[tuple[str, nn.Module]]:
        """Every path with its module, parents first; a module at two paths comes twice."""
        return [] if self.root is None else list(every_path(self.root))

    @cached_property
    def modules(self) -> list[tuple[str, nn.Module]]:
        """Every distinct module with its first path, parents first."""
        first: dict[int, tuple[str, nn.Module]] = {}
        for path, module in self.paths:
            first.setdefault(id(module), (path, module))
        return list(first.values())

    @cached_property
    def uses(self) -> dict[type, list[str]]:
        """The classes that users wrote, each with the paths of the modules that run its code."""
        found: dict[type, list[str]] = {}
        for path, module in self.modules:
            for kind in users(type(module)):
                found.setdefault(kind, []).append(path)
        for path, kind in self.kinds:
            for base in users(kind):
                found.setdefault(base, [path])
        return found

    @cached_property
    def trial(self) -> Trial | None:
        """What one run without data shows; None without a specification, or where it fails."""
        if self.tried is not None or self.root is None or self.spec is None:
            return self.tried
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return try_shapes(self.root, self.spec)
            except Exception as error:  # noqa: BLE001 - any error of a user's forward
                self.only, found = passing(self.root, self.spec, error, self._written())
                self.failure = error if found is None else None
                return found

    def _written(self) -> set[int]:
        """The whole numbers in the code of the network, and among its attributes."""
        found = {
            node.value
            for _, method in self.running()
            for node in ast.walk(method.node)
            if isinstance(node, ast.Constant) and type(node.value) is int
        }
        for _, module in self.modules:
            if users(type(module)):
                found |= {value for value in vars(module).values() if type(value) is int}
        return found

    @cached_property
    def experiment(self) -> Experiment | None:
        """Real runs of a copy; None without a specification, or where it cannot be run."""
        if self.root is None or self.spec is None:
            return None
        # A factory is only called where what it makes is known to be small.
        if count(self.root) > LARGEST:
            return None
        sizes = self.trial.sizes if self.trial is not None else None
        return made(self.factory or self.root, self.spec, sizes)

    def methods(self, start: str) -> Iterator[tuple[str, nn.Module | None, Method]]:
        """The methods that run when ``start`` is called, each once, with the first path at which
        it runs and the module there."""
        seen: set[int] = set()
        found: list[tuple[str, nn.Module | None, type]]
        found = [(path, module, type(module)) for path, module in self.modules]
        found += [(path, None, kind) for path, kind in self.kinds]
        for path, module, kind in found:
            for method in self.reached(kind, start):
                if id(method.node) not in seen:
                    seen.add(id(method.node))
                    yield path, module, method

    def forwards(self) -> Iterator[tuple[str, nn.Module, Method]]:
        """Each ``forward`` that a user wrote, once, with the first path and module."""
        seen: set[int] = set()
        for path, module in self.modules:
            method = self.sources.method(type(module), "forward")
            if method is not None and id(method.node) not in seen:
                seen.add(id(method.node))
                yield path, module, method

    def classes(self) -> Iterator[tuple[str, ClassSource]]:
        """The source of each class that a user wrote, with the first path at which it is used."""
        return ((paths[0], self.sources.of(kind)) for kind, paths in self.uses.items())

    def running(self) -> Iterator[tuple[str, Method]]:
        """The methods that run in a forward call: ``forward`` and those of the class that it
        calls on ``self``, each once, with the first path at which it runs."""
        return ((path, method) for path, _, method in self.methods("forward"))

    def reached(self, kind: type, start: str) -> list[Method]:
        """The method ``start`` of ``kind`` and those that it calls on ``self`` or ``super()``,
        users' own only."""
        if (kind, start) not in self._reached:
            self._reached[kind, start] = list(self._walked(kind, start))
        return self._reached[kind, start]

    def _walked(self, kind: type, start: str) -> Iterable[Method]:
        found: dict[int, Method] = {}
        waiting = [self.sources.method(kind, start)]
        while waiting:
            method = waiting.pop()
            if method is None or id(method.node) in found:
                continue
            found[id(method.node)] = method
            for node in ast.walk(method.node):
                called = method.attribute(node)
                if called and called.isidentifier():
                    waiting.append(self.sources.method(kind, called))
                elif isinstance(node, ast.Attribute) and is_super(node.value):
                    waiting.append(self.sources.method(kind, node.attr, after=method.owner))
        return found.values()

    def assigned(self, kind: type, attribute: str) -> tuple[str | None, int | None]:
        """The file and line where a method of ``kind`` first sets ``self.attribute``."""
        for source in self.sources.all_of(kind):
            for method in source.methods.values():
                for node in ast.walk(method.node):
                    if isinstance(node, ast.expr) and attribute in method.sets(node):
                        return method.file.path, node.lineno
        return None, None


def not_started(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules below ``root`` whose ``nn.Module.__init__`` never ran: they cannot be walked."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def walk(path: str, module: nn.Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        if "_modules" not in vars(module):
            found.append((path, module))
            return
        for name, child in module._modules.items():
            if child is not None:
                walk(join(path, name), child)

    walk("", root)
    return found


WALKS = frozenset(
    ("parameters", "named_parameters", "buffers", "named_buffers", "children", "named_children")
) | {"modules", "named_modules", "state_dict", "load_state_dict", "train", "eval", "apply", "to"}
"""Methods of nn.Module without which nothing can be looked at, built or run."""


def hidden(module: nn.Module) -> list[str]:
    """The methods among ``WALKS`` that an attribute of ``module`` hides."""
    own = vars(module)
    return [name for name in own if name in WALKS and not callable(own[name])]


def blamed(error: BaseException) -> tuple[str | None, int | None]:
    """The last line of a user's file on the way to an error."""
    trace, file, line = error.__traceback__, None, None
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        if name.split(".")[0] not in ("torch", "chimera") and not path.startswith("<"):
            file, line = path, trace.tb_lineno
        trace = trace.tb_next
    return file, line


def is_super(node: ast.AST) -> bool:
    """Whether ``node`` is ``super()`` or ``super(Class, self)``."""
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )
