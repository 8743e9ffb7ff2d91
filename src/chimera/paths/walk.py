"""Walking a tree of modules by path, every path, also those that lead to one module twice.

A path is a module's dotted name inside its root, as in ``named_modules()``; the root's is ``""``.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn


def join(path: str, name: str) -> str:
    """The path of ``name``, or of a longer path, below ``path``; either may be the root's."""
    return f"{path}.{name}" if path and name else path or name


def every_path(root: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every path of ``root`` with its module, parents first.

    Unlike ``named_modules()`` a module that stands at two paths comes twice. A module that
    contains itself ends the walk there.
    """
    yield from _walk(root, path, ())


def _walk(
    module: nn.Module, path: str, above: tuple[nn.Module, ...]
) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    for name, child in module._modules.items():
        if child is not None and all(child is not parent for parent in (*above, module)):
            yield from _walk(child, join(path, name), (*above, module))


def first_paths(root: nn.Module) -> dict[nn.Module, str]:
    """The first path of every distinct module of ``root``, parents first."""
    return {module: path for path, module in root.named_modules()}


def unknown(path: object, known: Iterable[str], what: str = "module") -> KeyError:
    """The error for a path that is none of ``known``; it names those that are near it."""
    names = [name or "'' (the root)" for name in known]
    near = difflib.get_close_matches(str(path), names, n=3)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    told = f"near it: {', '.join(near)}" if near else f"there are: {', '.join(names[:5])}{more}"
    return KeyError(f"there is no {what} {path!r}; {told}")


def registered(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Where ``module`` itself keeps its children, parameters and buffers."""
    return module._modules, module._parameters, module._buffers
