"""The children of a block: checked when they come in, kept in order, read in order.

Contract: the name of a child is a non-empty string without a dot that no attribute of the block
bears. A module that stands twice is read twice: ``Module.children()`` drops the second, so that the
block's own ``_modules`` are read here, and in no other file of this room.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from chimera.blocks.checked import checked, described


def children(block: nn.Module) -> list[nn.Module]:
    """The children of ``block`` in order, one that stands twice twice."""
    return [child for child in block._modules.values() if child is not None]


def names(block: nn.Module) -> list[str]:
    """The names of the children of ``block`` in order."""
    return [name for name, child in block._modules.items() if child is not None]


def replace(block: nn.Module, pairs: Iterable[tuple[str, nn.Module]]) -> None:
    """Give ``block`` the named children ``pairs`` in place of those that it has."""
    new = list(pairs)
    block._modules.clear()
    for name, child in new:
        add(block, name, child)


def add(block: nn.Module, name: Any, child: nn.Module) -> None:
    """Add ``child`` last.

    Raises:
        TypeError: the name is no string.
        ValueError: the name is empty, has a dot, is taken, or is an attribute of the block.
    """
    kind = type(block).__name__
    if not isinstance(name, str):
        raise TypeError(f"{kind}: the name of a child is a string; got {described(name)}.")
    if not name or "." in name:
        raise ValueError(
            f"{kind}: {name!r} is no name for a child: a name is not empty and has no dot, since "
            "dots separate the names in a path."
        )
    if name in block._modules:
        raise ValueError(f"{kind}: a child named {name!r} is there already; choose another name.")
    if hasattr(block, name):
        raise ValueError(
            f"{kind}: {name!r} is an attribute of every {kind}; choose another name for the child."
        )
    block.add_module(name, child)


def given(kind: str, what: str, modules: Sequence[Any]) -> list[tuple[str, nn.Module]]:
    """The named children that a block was given: by position, or as one dict.

    Args:
        kind: the block's class, for messages.
        what: the block's word for a child: "child" or "branch".
        modules: what came.

    Raises:
        TypeError: something is no module; the argument, what came and the mend are named.
    """
    if len(modules) == 1 and isinstance(modules[0], Mapping):
        return [(key, checked(kind, f"{what} {key!r}", m)) for key, m in modules[0].items()]
    if len(modules) == 1 and isinstance(modules[0], list | tuple | Iterator | nn.ModuleList):
        raise TypeError(
            f"{kind}: the one argument is {described(modules[0])}; unpack it: {kind}(*modules)."
        )
    return [(str(i), checked(kind, f"{what} {i}", module)) for i, module in enumerate(modules)]
