"""What the code of members can reach outside of them, as it was before a run.

That is the variables of its files, what classes hold, and the dictionaries, lists and sets among
these: where caches and logs are kept.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from types import CellType, FunctionType, ModuleType
from typing import Any

from torch import nn

_CONTAINERS = (dict, OrderedDict, defaultdict, list, deque, set)
_PLAIN = (bool, int, float, complex, str, bytes)
_DEPTH = 2  # a dictionary of dictionaries
_MOST = 10_000  # entries of what is copied


class Outside:
    """Copies of what the code of some modules can reach, to put back what it held.

    Args:
        modules: the modules, whose classes are noted.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._seen: set[int] = set()
        self._met: set[int] = set()
        self._names: list[tuple[Any, dict[str, Any]]] = []
        self._contents: list[tuple[Any, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        for module in modules:
            self._seen.add(id(module))  # puts back what it holds by itself
            for kind in type(module).__mro__:
                self.note(kind)
                if _is_users(kind):
                    self.see(_variables_of(kind))

    def meet(self, one: Any) -> None:
        """Take note of a module whose method runs and that is none of the members', as a loss."""
        if isinstance(one, nn.Module) and self._is_new(one):
            self._met.add(id(one))
            self._names.append((one, dict(one.__dict__)))
            for value in list(one.__dict__.values()):
                self.note(value)

    def see(self, variables: dict[str, Any]) -> None:
        """Take note of the variables of a file whose code runs."""
        if self._is_new(variables):
            self._names.append((_Variables(variables), variables.copy()))
            for value in list(variables.values()):
                self.note(value)

    def note(self, value: Any) -> None:
        """Take note of what a container or a user's object holds."""
        self._note(value, _DEPTH)

    def _is_new(self, thing: Any) -> bool:
        new = id(thing) not in self._seen
        self._seen.add(id(thing))
        return new

    def _note(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind in _CONTAINERS:
            if len(value) <= _MOST and self._is_new(value):
                self._contents.append((value, copy.copy(value)))
                if depth and isinstance(value, dict):
                    for inner in list(value.values()):
                        self._note(inner, depth - 1)
        elif depth and _is_users(value) and self._is_new(value):
            names = dict(value.__dict__)
            self._names.append((value, names))
            for inner in names.values():
                self._note(inner, depth - 1)
            if isinstance(value, FunctionType):
                for cell in value.__closure__ or ():
                    self._note_cell(cell, depth - 1)

    def _note_cell(self, cell: CellType, depth: int) -> None:
        try:
            held = cell.cell_contents
        except ValueError:  # a variable that has no value yet
            return
        self._cells.append((cell, held))
        self._note(held, depth)

    def changed(self) -> str | None:
        """What does not hold what it held, in words; None where all does.

        A loss counts its steps, so what it holds itself has no say.
        """
        for thing, names in self._names:
            gone, back = _apart(thing, names)
            apart = [*gone, *(n for n in back if not _equal(back[n], thing.__dict__.get(n)))]
            if apart and id(thing) not in self._met:
                owner = getattr(thing, "__name__", type(thing).__name__)
                named = isinstance(thing, _Variables)
                return f"the variable {apart[0]}" if named else f"{owner}.{apart[0]}"
        if not all(_equal(held, cell.cell_contents) for cell, held in self._cells):
            return "a variable of an enclosing function"
        held = (held for held, was in self._contents if not _holds(held, was))
        return next((f"a {type(one).__name__}" for one in held), None)

    def restore(self) -> None:
        """Let everything noted hold what it held."""
        for thing, names in self._names:
            now = thing.__dict__
            gone, back = _apart(thing, names)
            if isinstance(thing, type):  # whose dictionary is read alone
                for name in gone:
                    delattr(thing, name)
                for name, value in back.items():
                    setattr(thing, name, value)
            else:
                for name in gone:
                    del now[name]
                now.update(back)
        for cell, held in self._cells:
            cell.cell_contents = held
        for held, was in self._contents:
            if not _holds(held, was):
                held.clear()
                (held.update if isinstance(held, dict | set) else held.extend)(was)


def _apart(thing: Any, names: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The names that something has now and had not, and those that hold another object.

    Not names of Python's own, nor what an import left.
    """
    now = thing.__dict__
    gone = [
        name
        for name, value in now.items()
        if name not in names and name[:2] != "__" and not isinstance(value, ModuleType)
    ]
    return gone, {n: v for n, v in names.items() if now.get(n) is not v and n[:2] != "__"}


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are the same object, or numbers and texts that are equal."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if type(one) is tuple:
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) in _PLAIN and bool(one == other)


class _Variables:
    """The variables of a file, as attributes."""

    def __init__(self, variables: dict[str, Any]) -> None:
        self.__dict__ = variables


def _holds(held: Any, was: Any) -> bool:
    if len(held) != len(was):
        return False
    if isinstance(held, dict):
        return all(_equal(held.get(key, held), value) for key, value in was.items())
    return all(map(_equal, held, was))


def _is_users(value: Any) -> bool:
    """Whether something is of a kind in whose attributes a user may keep tensors."""
    kind = type(value)
    if isinstance(value, ModuleType | nn.Module) or not hasattr(kind, "__dict__"):
        return False
    named = value if isinstance(value, type | FunctionType) else kind
    room = str(named.__module__).partition(".")[0]
    plain = room not in ("torch", "builtins", "chimera", "typing", "functools", "collections")
    return plain and ("__dict__" in dir(kind) or isinstance(value, type | FunctionType))


def _variables_of(kind: type) -> dict[str, Any]:
    """The variables of the file that a class is of."""
    file = sys.modules.get(kind.__module__)
    return {} if file is None else file.__dict__
