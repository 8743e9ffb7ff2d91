"""What of a module goes into a file: each tensor once, the ties, and what else JSON can say.

That is what ``state_dict`` holds, and what it forgets: tensors in plain attributes, and the modules
and tensors in plain containers. Those are the *unregistered* ones.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from chimera.paths.structure import Slot, read


@dataclass
class Contents:
    """What a file holds of a module.

    Attributes:
        tensors: each distinct one once, under its first name.
        ties: from every other name of a tensor to its first.
        extra: what ``state_dict`` holds that is no tensor.
        unregistered: the names that ``state_dict`` does not have.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    unregistered: list[str] = field(default_factory=list)

    def named(self) -> dict[str, Tensor]:
        """Every tensor under every name of it."""
        return self.tensors | {name: self.tensors[first] for name, first in self.ties.items()}


def contents(module: nn.Module) -> Contents:
    """What of ``module`` goes into a file.

    Raises ValueError where it holds an uninitialized tensor, one on the meta device, or an extra
    state that JSON cannot give back as it was.
    """
    found = Contents()
    first: dict[object, str] = {}

    def add(name: str, tensor: Tensor) -> None:
        _check_valued(name, tensor)
        identity = tensor_identity(tensor)
        if identity in first:
            found.ties[name] = first[identity]
        else:
            first[identity] = name
            found.tensors[name] = tensor.detach()

    state = module.state_dict(keep_vars=True)
    for name, value in state.items():
        if isinstance(value, Tensor):
            add(name, value)
        else:
            found.extra[name] = as_json(name, value)
    for slot in unregistered(module):
        if tensor_identity(slot.tensor) not in first:
            add(slot.path, slot.tensor)
            found.unregistered.append(slot.path)
    return found


def unregistered(module: nn.Module) -> list[Slot]:
    """The tensors of ``module`` that stand only where ``state_dict`` does not look."""
    if lies_in_parts(module):
        return []
    slots = [slot for slot in read(module).slots if slot.hidden or slot.kind == "attribute"]
    return [slot for slot in slots if slot.persistent]


def lies_in_parts(module: nn.Module) -> bool:
    """Whether every rank holds parts of the tensors, which its attributes know: all of the
    network's own are registered."""
    in_parts = getattr(type(module), "__in_parts__", None)
    return in_parts is not None and bool(in_parts(module))


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


def _check_valued(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise ValueError(
            f"{name!r} is uninitialized: there is nothing to save yet. Build the network first: "
            "ch.build(net, ch.spec(...))"
        )
    if tensor.is_meta:
        raise ValueError(f"{name!r} is on the meta device, where tensors have no values to save")


def as_json(name: str, value: Any) -> Any:
    """``value`` if JSON gives it back as it is; ValueError if not."""
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
