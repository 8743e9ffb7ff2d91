"""What a function or module given to a run is made of, as a hash: source, and what it holds."""

import functools
import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from chimera.fit.reads import attributes_of, lambda_text, methods_of, read_by
from chimera.paths.structure import own_attributes
from chimera.stack.contents import as_text


def code_of(function: Any) -> str | None:
    """A hash of the source of a function, of the values that it holds, and of those given to it.

    Of a ``functools.partial`` its arguments count; of a function what it closes over, its defaults
    and the globals that it reads; of a module its numbers, parameters and buffers. None where
    nothing can be said: of torch's functions and ours (``environment.json`` names their versions),
    and of a function without a source.
    """
    said = list(_said(function, set()))
    return sha256("\n".join(said)) if said else None


def sources(kind: type) -> list[str]:
    """The source of a class and of its bases, torch's and ours left out."""
    found = []
    for base in kind.__mro__:
        if base is object or _is_known(base):
            continue
        try:
            found.append(inspect.getsource(base))
        except (OSError, TypeError):
            found.append(base.__qualname__)
    return found


def sha256(text: str) -> str:
    """The hash, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def reads_of(kinds: Iterable[type]) -> dict[str, str]:
    """By name, what the methods of a user's classes read, and the plain values of the classes."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    for kind in kinds:
        for base in kind.__mro__:
            if base is object or _is_known(base) or id(base) in seen:
                continue
            seen.add(id(base))
            for name, value in attributes_of(base):
                found[f"{base.__qualname__}.{name}"] = _short(_value(value, seen))
            for method in methods_of(base):
                for name, value in read_by(method):
                    found[f"{method.__qualname__}.{name}"] = _short(_value(value, seen))
    return found


def said_of(value: Any) -> str:
    """A value in words that are the same in every process; a hash where they are many."""
    return _short(_value(value, set()))


def _short(said: str) -> str:
    return said if len(said) <= 60 and "\n" not in said else f"sha256 {sha256(said)}"


def _said(thing: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(thing, functools.partial):
        yield from _said(thing.func, seen)
        for name, value in [*enumerate(thing.args), *sorted(thing.keywords.items())]:
            yield f"{name} = {_value(value, seen)}"
        return
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        yield from _module(thing, seen)
        return
    if _is_known(thing):
        return
    if isinstance(thing, type):
        yield from sources(thing)
        yield from (f"{name} = {value}" for name, value in reads_of([thing]).items())
        return
    try:
        yield inspect.getsource(thing)
    except (OSError, TypeError):
        return
    if isinstance(thing, FunctionType):
        yield lambda_text(thing)
        yield from (f"{name} = {_value(value, seen)}" for name, value in read_by(thing))


def _module(module: nn.Module, seen: set[int]) -> Iterator[str]:
    for path, part in module.named_modules():
        yield f"{path} {type(part).__qualname__}"
        yield from sources(type(part))
        for name, value in sorted(own_attributes(part).items()):
            if name != "training":
                yield f"{path} {name} {as_text(value)}"
    yield from (f"{k} = {v}" for k, v in reads_of(map(type, module.modules())).items())
    for held in (module.named_parameters(), module.named_buffers()):
        yield from (f"{path} {_value(tensor, seen)}" for path, tensor in held)


def _value(value: Any, seen: set[int]) -> str:
    """A value in words that are the same in every process."""
    if isinstance(value, Tensor):
        if value.is_sparse or value.is_meta or value.is_quantized:
            return f"{value.dtype} {[*value.shape]}"
        try:
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        except RuntimeError:  # of many members at once, kept beyond torch.vmap
            return "a tensor that cannot be read"
        digest = hashlib.sha256(plain.numpy().tobytes()).hexdigest()
        return f"{value.dtype} {[*value.shape]} {digest}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(_value(item, seen) for item in value)})"
    if isinstance(value, Mapping):
        parts = (f"{_value(k, seen)}: {_value(v, seen)}" for k, v in value.items())
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, nn.Module | functools.partial) or callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return " ".join([name, *_said(value, seen)])
    return type(value).__qualname__


def _is_known(thing: Any) -> bool:
    """Whether this comes from a package whose version ``environment.json`` names."""
    return (getattr(thing, "__module__", None) or "").partition(".")[0] in ("torch", "chimera")
