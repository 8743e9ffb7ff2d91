"""What of a module goes into a file: each tensor once, the ties, and what else JSON can say."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from chimera.paths.walk import join


@dataclass
class Contents:
    """A ``state_dict`` taken apart: ``tensors``, each distinct one once under its first name;
    ``ties``, from every other name of it to that; ``extra``, the values that are no tensors."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def contents(module: nn.Module) -> Contents:
    """The contents of ``module.state_dict()``.

    Raises ValueError where it holds an uninitialized tensor, one on the meta device, or an extra
    state that JSON cannot give back as it was.
    """
    found = Contents()
    first: dict[object, str] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            found.extra[name] = _as_json(name, value)
            continue
        _check_valued(name, value)
        identity = tensor_identity(value)
        if identity in first:
            found.ties[name] = first[identity]
        else:
            first[identity] = name
            found.tensors[name] = value.detach()
    return found


def tensor_identity(tensor: Tensor) -> object:
    """A key that two tensors share when they are one: the same memory, seen the same way."""
    if is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided or not tensor.numel():
        return id(tensor)
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.is_conj(),
        tensor.is_neg(),
    )


def plain_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors kept as plain attributes, by name: no ``state_dict`` holds them."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                yield join(path, name), value


def _check_valued(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise ValueError(
            f"{name!r} is uninitialized: there is nothing to save yet. Build the network first: "
            "ch.build(net, ch.spec(...))"
        )
    if tensor.is_meta:
        raise ValueError(f"{name!r} is on the meta device, where tensors have no values to save")


def _as_json(name: str, value: Any) -> Any:
    try:
        back = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the extra state {name!r} cannot be written as JSON: {error}") from error
    if not _identical(value, back):
        raise ValueError(
            f"the extra state {name!r} would come back from JSON as something else, expected "
            "tables with string keys, lists, strings, numbers, booleans and None only"
        )
    return value


def _identical(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(_identical(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_identical, a, b))
    return bool(a == b)
