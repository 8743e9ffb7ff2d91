"""What makes a module, from a user's file: ``file.py:name``, a class or another callable, or
``file.py`` when it holds one class."""

import importlib
import importlib.util
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

from torch import nn

from chimera.build.construct import Factory
from chimera.cli.mistake import Mistake, one_line


def load_factory(source: str) -> Factory:
    """Import the file of ``source`` and return what it names: a class of modules, or a function
    or another callable; whether that makes a module is seen when it is called.

    The file is imported as any module is: what stands at its top level runs. Files beside it can
    be imported from it.

    Raises:
        Mistake: the file is not there or does not import, or the name is not in it or makes no
            ``torch.nn.Module``.
    """
    file, name = _parts(source)
    module = _import(file)
    own = [
        value
        for value in vars(module).values()
        if _is_module_class(value) and value.__module__ == module.__name__
    ]
    if not name:
        return _only(file, own)
    if not hasattr(module, name):
        raise Mistake(f"{file} has no class or function {name}; {_there(own)}")
    value = getattr(module, name)
    if isinstance(value, nn.Module):
        raise Mistake(
            f"{file}:{name} is a module already, a {type(value).__name__}; give its class, or a "
            f"function: def make(): return {type(value).__name__}(...)"
        )
    if not callable(value) or (isinstance(value, type) and not _is_module_class(value)):
        what = "a class" if isinstance(value, type) else f"of type {type(value).__name__}"
        raise Mistake(
            f"{file}:{name} is {what}, expected a subclass of torch.nn.Module or a function that "
            f"makes one; {_there(own)}"
        )
    factory: Factory = value
    return factory


def source_file(source: str) -> Path:
    """The file of ``file.py:name``."""
    return _parts(source)[0]


def _parts(source: str) -> tuple[Path, str]:
    file, colon, name = source.rpartition(":")
    if not colon or name.endswith(".py"):
        file, name = source, ""
    elif not name.isidentifier():
        raise Mistake(
            f"expected file.py:name, got {source!r}; {name!r} is no name of a class or function"
        )
    path = Path(file)
    if path.suffix != ".py":
        raise Mistake(f"expected a Python file as in file.py:name, got {source!r}")
    if not path.exists():
        raise Mistake(f"there is no file {file}; expected file.py:name")
    if not path.is_file():
        raise Mistake(f"{file} is no file; expected file.py:name")
    return path, name


def _import(file: Path) -> ModuleType:
    """The module of ``file``; a name that is loaded already keeps its module. A file of a package,
    a folder with an ``__init__.py``, is imported as its part, so that relative imports work."""
    folder, parts = file.resolve().parent, [file.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    name, package = ".".join(parts), len(parts) > 1
    # What has the name already, if it is of another file: then this one stands alone.
    taken = sys.modules.get(parts[0])
    if taken is not None and not (package and _is_of(taken, folder / parts[0] / "__init__.py")):
        name, package = f"chimera_file_{file.stem}", False
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    start = time.monotonic()
    try:
        module = importlib.import_module(name) if package else _alone(name, file)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise Mistake(f"{file} does not import: {_where(error, file)}") from error
    took = time.monotonic() - start
    if took > _LONG_S:
        print(  # noqa: T201
            f"importing {file} took {took:.0f} s: what stands at its top level runs; put what is "
            'to run as a script under if __name__ == "__main__":',
            file=sys.stderr,
        )
    return module


_LONG_S = 10.0
"""Seconds after which an import is said to be long."""


def _is_of(module: ModuleType, file: Path) -> bool:
    origin = getattr(module, "__file__", None)
    return origin is not None and Path(origin).resolve() == file.resolve()


def _alone(name: str, file: Path) -> ModuleType:
    """The module of a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _where(error: BaseException, file: Path) -> str:
    told = f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, SystemExit):
        told = (
            f"it ends the program there (SystemExit: {error.code}); put what is to run as a "
            'script under if __name__ == "__main__":'
        )
    if isinstance(error, SyntaxError):
        if error.filename is not None and Path(error.filename) != file.resolve():
            return f"{error.filename}, line {error.lineno}: SyntaxError: {error.msg}"
        told = f"SyntaxError: {error.msg}"
        return told if error.lineno is None else f"line {error.lineno}: {told}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == file.resolve()
    ]
    return f"line {lines[-1]}: {told}" if lines else told


def _is_module_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _only(file: Path, classes: list[type[nn.Module]]) -> type[nn.Module]:
    if len(classes) == 1:
        return classes[0]
    raise Mistake(f"{file} is given without a name; {_there(classes)}, expected {file}:name")


def _there(classes: list[type[nn.Module]]) -> str:
    if not classes:
        return "it defines no torch.nn.Module"
    return f"it defines {', '.join(sorted(value.__name__ for value in classes))}"
