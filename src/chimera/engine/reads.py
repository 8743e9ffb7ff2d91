"""What the code of a function reads and writes by name: globals, attributes, modules imported.

Contract: a name that is read is told, whichever way the code takes; where names are made as the
code runs (``getattr``, ``vars``), ``dynamic`` says so.
"""

from __future__ import annotations

import dis
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

_READ_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_WRITE_GLOBALS = ("STORE_GLOBAL", "DELETE_GLOBAL")
_READ_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM")
_DYNAMIC = frozenset({"getattr", "vars", "eval", "exec", "globals", "attrgetter", "__dict__"})


@dataclass(slots=True)
class Reads:
    """The names in a function's code, and in that of the functions made in it.

    Attributes:
        globals: global names that it reads.
        writes: global names that it writes.
        attributes: names of attributes that it reads, of whatever object.
        imports: modules that it imports as it runs.
        dynamic: whether it reads attributes by names that are no part of the code.
    """

    globals: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    imports: set[str] = field(default_factory=set)
    dynamic: bool = False


@lru_cache(maxsize=4096)
def reads_of(code: CodeType) -> Reads:
    """The names in ``code``."""
    found = Reads()
    for step in dis.get_instructions(code):
        name = step.argval
        if step.opname in _READ_GLOBALS:
            found.globals.add(name)
        elif step.opname in _WRITE_GLOBALS:
            found.writes.add(name)
        elif step.opname in _READ_ATTRIBUTES:
            found.attributes.add(name)
        elif step.opname == "IMPORT_NAME":
            found.imports.add(name)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = reads_of(constant)
            found.globals |= inner.globals
            found.writes |= inner.writes
            found.attributes |= inner.attributes
            found.imports |= inner.imports
            found.dynamic |= inner.dynamic
        elif isinstance(constant, str) and "hasattr" in found.globals:
            found.attributes.add(constant)
    found.dynamic |= not _DYNAMIC.isdisjoint(found.globals | found.attributes)
    return found


def is_installed(thing: Any) -> bool:
    """Whether a function, class or module is torch's, ours, Python's or an installed package's."""
    name = getattr(thing, "__module__", None) or getattr(thing, "__name__", None)
    return _is_installed((name or "").partition(".")[0])


@lru_cache(maxsize=4096)
def _is_installed(top: str) -> bool:
    if top in sys.stdlib_module_names or top in ("torch", "chimera"):
        return True
    path = getattr(sys.modules.get(top), "__file__", None) or ""
    return any(folder in Path(path).parts for folder in ("site-packages", "dist-packages"))
