"""Saving and loading any module: safetensors, with what else is known as JSON in its header.

A file holds each tensor once, ties recorded, extra states as JSON, and digests, so that what was
damaged is never loaded. Loading runs no code from the file. A Stack's file holds its stacked
tensors under ``groups.<g>.<path>``, members on the leading axis, and the ids of the members, so
that one of them can be read without the others.
"""

import inspect
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn

from chimera.build.adopt import report_of
from chimera.build.construct import name_of
from chimera.paths.arguments import as_flag
from chimera.paths.notice import ChimeraWarning
from chimera.stack.contents import Contents, contents
from chimera.stack.encoded import decoded, tensors_of
from chimera.stack.extra import KEY
from chimera.stack.members import described, made_by_all, of_stack, one_member
from chimera.stack.restore import Differences, restore
from chimera.stack.stack import Stack
from chimera.store import CheckpointError, TensorFile, write_tensors

_FORMAT = 1

M = TypeVar("M", bound=nn.Module)


def save(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module or a Stack to the file ``path``, whole or not at all.

    The file is safetensors: every parameter and persistent buffer under its name in
    ``state_dict()``, and every tensor in a plain attribute or container, which ``state_dict()``
    forgets, under its path. Tied tensors are stored once and the ties recorded.

    Args:
        module: any module. Its extra states (``get_extra_state``) must be tensors, numbers, texts,
            bytes, None, and lists, tuples, sets and dicts of them.
        path: the file; one that is there is replaced.

    Raises:
        TypeError: ``module`` is no module, or ``path`` no path.
        ValueError: ``module`` is not built yet, or holds what a file cannot; ``path`` is no plain
            file or its directory does not exist.
        OSError: the disk refuses.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a module, got {type(module).__name__}")
    path = _as_path(path)
    meta: dict[str, Any] = {"format": _FORMAT, "class": type(module).__qualname__}
    if isinstance(module, Stack):
        groups, beside = described(module)
        tensors = {name: t for name, t in module.state_dict().items() if name != KEY}
        tensors |= made_by_all(module)
        rows = {
            f"groups.{g}": names
            for g in range(len(groups))
            if (names := [name for name in tensors if name.startswith(f"groups.{g}.")])
        }
        write_tensors(path, tensors | beside, meta | {"groups": groups}, rows)
        return
    held = contents(module)
    meta |= {"ties": held.ties, "unregistered": held.unregistered}
    meta |= {"extra": held.encoded.plain, "trees": held.encoded.trees}
    meta |= {"metadata": held.metadata}
    write = partial(write_tensors, path, held.tensors | held.encoded.tensors, meta)
    once = getattr(type(module), "__write__", None)  # of a network over several processes
    if once is None:
        write()
    else:
        once(module, write)


def load(
    path: str | os.PathLike[str],
    into: M | Callable[[], M],
    member: int | None = None,
    strict: bool = True,
) -> M:
    """Load the file ``path`` that `save` wrote into a module.

    Args:
        path: the file.
        into: a module, a Stack, or a factory of one (a class, a function without arguments).
            Uninitialized parameters take the shapes of the file; other shapes, and dtypes, must
            agree. A load that fails leaves it as it was.
        member: of a Stack's file, the id of the member to load into a plain module. Only its own
            rows are read.
        strict: whether a name that is only in the file, or only in ``into``, is an error. If not,
            they are listed in a `ChimeraWarning`. Buffers that `build` made of plain tensors may
            be missing in either case, and are listed.

    Returns:
        ``into``, or what the factory made.

    Raises:
        CheckpointError: the file is damaged, is not one of `save`, or does not fit ``into``.
        ValueError: ``member`` is missing, not in the file, or given where there are no members.
        TypeError: ``member`` is no whole number.
        TypeError: ``path`` is no path; ``into`` is neither a module nor a factory of one that is
            called without arguments; ``strict`` is no bool.
    """
    strict = as_flag("strict", strict)
    if member is not None and (isinstance(member, bool) or not isinstance(member, int)):
        raise TypeError(f"member must be the id of a member, an int, got {member!r:.60}")
    file = TensorFile(_as_path(path))
    meta = file.meta
    if meta.get("format") != _FORMAT:
        raise CheckpointError(
            f"{file.path}: is of format {meta.get('format')!r}, this version reads {_FORMAT}"
        )
    module = _made(into)
    try:
        held = _held(file, module, member)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{file.path}: does not say what its tensors are") from error

    def accept(differences: Differences) -> None:
        _judge(differences, module, file.path, strict)

    made = made_by_all(module) if isinstance(module, Stack) else {}
    restore(module, held, file.path, accept, made)
    return module


def _as_path(path: Any) -> Path:
    """The path of a file.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: it is empty.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be the path of a file, got {path!r:.60}")
    if not os.fspath(path):
        raise ValueError("path is empty, expected the path of a file")
    return Path(path)


def _check_calls(factory: Callable[..., Any]) -> None:
    """Raise TypeError where a factory cannot be called without arguments."""
    try:
        inspect.signature(factory).bind()
    except ValueError:  # there is no signature: the call will tell
        return
    except TypeError as error:
        name = name_of(factory)
        raise TypeError(
            f"into: {name} cannot be called without arguments ({error}); give a module, or a "
            f"function: lambda: {name}(...)"
        ) from None


def _made(into: M | Callable[[], M]) -> M:
    if isinstance(into, nn.Module):
        return cast(M, into)
    if not callable(into):
        raise TypeError(f"into: expected a module or a factory, got {type(into).__name__}")
    _check_calls(into)
    made = into()
    if not isinstance(made, nn.Module):
        raise TypeError(f"into: the factory returned {type(made).__name__}, expected a module")
    return made


def _held(file: TensorFile, module: nn.Module, member: int | None) -> Contents:
    """What of the file is meant for ``module``."""
    groups = file.meta.get("groups")
    if groups is None:
        if member is not None:
            raise ValueError(f"member: {file.path} holds one module, not a Stack; leave it out")
        if isinstance(module, Stack):
            raise ValueError(
                f"into: {file.path} holds one module; load it with into=stack[i], then write "
                "stack[i] back"
            )
        meta, tensors = file.meta, file.read()
        trees = meta.get("trees", {})
        extra = meta["extra"] | decoded(trees, tensors, file.path)
        own = set(tensors).difference(tensors_of(trees))
        mine = {name: tensor for name, tensor in tensors.items() if name in own}
        return Contents(
            mine, meta["ties"], extra, meta["unregistered"], metadata=meta.get("metadata")
        )
    if isinstance(module, Stack):
        if member is not None:
            raise ValueError(
                "member: a member is loaded into a plain module, and `into` is a Stack"
            )
        return of_stack(file, groups, module)
    if member is None:
        raise ValueError(
            f"member: {file.path} holds a Stack; say which member to load, or let `into` be a Stack"
        )
    return one_member(file, groups, member)


def _judge(differences: Differences, module: nn.Module, path: Path, strict: bool) -> None:
    adopted = {line.partition(": ")[0] for line in report_of(module)}
    lacking = [name for name in differences.missing if name not in adopted]
    wrong = []
    if lacking:
        wrong.append(f"lacks {_listed(lacking)}")
    if differences.unknown:
        wrong.append(f"holds {_listed(differences.unknown)}, unknown to `into`")
    if wrong and strict:
        raise CheckpointError(
            f"{path}: {' and '.join(wrong)}. Use strict=False to load what both have"
        )
    kept = sorted(adopted.intersection(differences.missing))
    if kept:
        wrong.append(f"lacks {_listed(kept)}, plain tensors that build adopted: they stay as built")
    if differences.untied:
        wrong.append(f"ties what `into` keeps apart: {_listed(differences.untied)}")
    if differences.homeless:
        wrong.append(
            f"holds {_listed(differences.homeless)}, kept outside of state_dict, for which `into` "
            "has no place"
        )
    if wrong:
        warnings.warn(f"{path}: {' and '.join(wrong)}", ChimeraWarning, stacklevel=5)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
