"""Plain tensor attributes that become buffers, so that they move, cast and are saved.

A tensor is adopted if it stood in the module before forward and forward leaves it in its place. One
that wants a gradient, or that is memory of a parameter, is left alone and reported: it was meant to
be a parameter.
"""

from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary

import torch
from torch import nn

from chimera.build.datafree import is_uninitialized
from chimera.paths.walk import first_paths, join

Place = tuple[str, str]
"""The path of a module and the name of its attribute."""

_ADOPTED: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()


def plain_tensors(net: nn.Module) -> Iterator[tuple[Place, torch.Tensor]]:
    """Every plain tensor attribute of every module of ``net``."""
    for module, path in first_paths(net).items():
        for name, value in module.__dict__.items():
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
                yield (path, name), value


def adopt(net: nn.Module, places: Iterable[Place]) -> list[str]:
    """Make buffers of the plain tensors at ``places``; a line for each, and for each left alone."""
    allowed = set(places)
    owners: dict[int, str] = {}
    for path, parameter in net.named_parameters():
        if not (is_uninitialized(parameter) or parameter.is_meta) and parameter.numel():
            owners.setdefault(parameter.untyped_storage().data_ptr(), path)
    modules = {path: module for module, path in first_paths(net).items()}
    first_place: dict[int, str] = {}
    lines = []
    for place, tensor in list(plain_tensors(net)):
        if place not in allowed:
            continue
        path, name = place
        module, full = modules[path], join(path, name)
        reason = _hindrance(module, name, tensor, owners)
        if reason is not None:
            lines.append(f"{full}: left a plain tensor, since {reason}")
            continue
        del module.__dict__[name]
        module.register_buffer(name, tensor)
        first = first_place.setdefault(id(tensor), full)
        line = (
            f"plain tensor {list(tensor.shape)} adopted as a buffer: it moves, casts and is saved"
        )
        if first != full:
            line += f"; it is {first}, tied"
        _ADOPTED.setdefault(module, {})[name] = line
        lines.append(f"{full}: {line}")
    return lines


def _hindrance(
    module: nn.Module, name: str, tensor: torch.Tensor, owners: dict[int, str]
) -> str | None:
    if hasattr(type(module), name):
        return f"the class {type(module).__name__} has an attribute of that name"
    if tensor.requires_grad:
        return "it requires a gradient; make it an nn.Parameter"
    if "." in name:
        return "its name has a dot"
    if not tensor.is_meta and tensor.numel():
        owner = owners.get(tensor.untyped_storage().data_ptr())
        if owner is not None:
            return f"it is memory of the parameter {owner}"
    return None


def report_of(module: nn.Module) -> list[str]:
    """What build adopted in ``module`` and below it, a line each: ``path: what was done``."""
    return [
        f"{join(path, name)}: {line}"
        for inner, path in first_paths(module).items()
        for name, line in _ADOPTED.get(inner, {}).items()
        if name in inner._buffers
    ]
