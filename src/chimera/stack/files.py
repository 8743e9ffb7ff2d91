"""Saving and loading any module: safetensors, with what else is known as JSON in its header.

A file holds what ``state_dict`` holds: each tensor once, ties recorded, extra states as JSON, and
digests, so that what was damaged is never loaded. Loading runs no code from the file.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from torch import nn

from chimera.paths.notice import ChimeraWarning
from chimera.stack.contents import Contents, contents, plain_tensors, tensor_identity
from chimera.stack.restore import Differences, restore
from chimera.store import CheckpointError, TensorFile, write_tensors

_FORMAT = 1

M = TypeVar("M", bound=nn.Module)


def save(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write ``module`` to the file ``path``, whole or not at all.

    The file is safetensors: every parameter and persistent buffer under its name in
    ``state_dict()``. Tied tensors are stored once and the ties recorded.

    Args:
        module: any module. Its extra states (``get_extra_state``) must be what JSON can give back.
        path: the file; one that is there is replaced.

    Raises:
        ValueError: ``module`` is not built yet, or holds what a file cannot; ``path`` is no plain
            file or its directory does not exist.
        OSError: the disk refuses.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a module, got {type(module).__name__}")
    held = contents(module)
    saved = {tensor_identity(tensor) for tensor in held.tensors.values()}
    left = [name for name, tensor in plain_tensors(module) if tensor_identity(tensor) not in saved]
    if left:
        warnings.warn(
            f"{', '.join(left)}: kept as plain attributes, so not saved. Register them as buffers "
            "(ch.build does it for constants)",
            ChimeraWarning,
            stacklevel=2,
        )
    meta = {"format": _FORMAT, "kind": "module", "class": type(module).__qualname__}
    write_tensors(path, held.tensors, meta | {"ties": held.ties, "extra": held.extra})


def load(
    path: str | os.PathLike[str],
    into: M | Callable[[], M],
    member: int | None = None,
    strict: bool = True,
) -> M:
    """Load the file ``path`` that `save` wrote into a module.

    Args:
        path: the file.
        into: a module, or a factory of one (a class, a function without arguments). Uninitialized
            parameters take the shapes of the file; other shapes, and dtypes, must agree. A load
            that fails leaves it as it was.
        strict: whether a name that is only in the file, or only in ``into``, is an error. If not,
            they are listed in a `ChimeraWarning`.

    Returns:
        ``into``, or what the factory made.

    Raises:
        CheckpointError: the file is damaged, is not one of `save`, or does not fit ``into``.
    """
    file = TensorFile(path)
    meta = file.meta
    if meta.get("format") != _FORMAT:
        raise CheckpointError(
            f"{file.path}: is of format {meta.get('format')!r}, this version reads {_FORMAT}"
        )
    held = Contents(file.read(), meta["ties"], meta["extra"])
    module = _made(into)

    def accept(differences: Differences) -> None:
        _judge(differences, file.path, strict)

    restore(module, held, file.path, accept)
    return module


def _made(into: M | Callable[[], M]) -> M:
    if isinstance(into, nn.Module):
        return cast(M, into)
    if not callable(into):
        raise TypeError(f"into: expected a module or a factory, got {type(into).__name__}")
    made = into()
    if not isinstance(made, nn.Module):
        raise TypeError(f"into: the factory returned {type(made).__name__}, expected a module")
    return made


def _judge(differences: Differences, path: Path, strict: bool) -> None:
    said = []
    if differences.missing:
        said.append(f"lacks {_listed(differences.missing)}")
    if differences.unknown:
        said.append(f"holds {_listed(differences.unknown)}, unknown to `into`")
    if said and strict:
        raise CheckpointError(
            f"{path}: {' and '.join(said)}. Use strict=False to load what both have"
        )
    if differences.untied:
        said.append(f"ties what `into` keeps apart: {_listed(differences.untied)}")
    if said:
        warnings.warn(f"{path}: {' and '.join(said)}", ChimeraWarning, stacklevel=4)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
