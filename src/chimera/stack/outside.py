"""What the code of members can reach outside of them, as it was before a run.

That is the variables of its files, what classes hold, and the dictionaries, lists and sets among
these: where caches and logs are kept.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from types import CellType, FunctionType, ModuleType
from typing import Any

from torch import nn

_CONTAINERS = (dict, OrderedDict, defaultdict, list, deque, set)
_DEPTH = 2  # a dictionary of dictionaries
_MOST = 10_000  # entries of what is copied


class Outside:
    """Copies of what the code of some modules can reach, to put back what it held.

    Args:
        modules: the modules, whose classes are noted.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._seen: set[int] = set()
        self._names: list[tuple[Any, dict[str, Any]]] = []
        self._contents: list[tuple[Any, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        for module in modules:
            self._seen.add(id(module))  # puts back what it holds by itself
            for kind in type(module).__mro__:
                self.note(kind)

    def meet(self, one: Any) -> None:
        """Take note of a module whose method runs and that is none of the members', as a loss."""
        if isinstance(one, nn.Module) and self._is_new(one):
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

    def restore(self) -> None:
        """Let everything noted hold what it held."""
        for thing, names in self._names:
            now = thing.__dict__
            gone = [name for name in now if name not in names and name[:2] != "__"]
            back = {n: v for n, v in names.items() if now.get(n) is not v and n[:2] != "__"}
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


class _Variables:
    """The variables of a file, as attributes."""

    def __init__(self, variables: dict[str, Any]) -> None:
        self.__dict__ = variables


def _holds(held: Any, was: Any) -> bool:
    if len(held) != len(was):
        return False
    if isinstance(held, dict):
        return all(held.get(key, held) is value for key, value in was.items())
    return all(a is b for a, b in zip(held, was, strict=True))


def _is_users(value: Any) -> bool:
    """Whether something is of a kind in whose attributes a user may keep tensors."""
    kind = type(value)
    if isinstance(value, ModuleType | nn.Module) or not hasattr(kind, "__dict__"):
        return False
    named = value if isinstance(value, type | FunctionType) else kind
    room = str(named.__module__).partition(".")[0]
    plain = room not in ("torch", "builtins", "chimera", "typing", "functools", "collections")
    return plain and ("__dict__" in dir(kind) or isinstance(value, type | FunctionType))
