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

from chimera.paths.nest import flatten
from chimera.paths.structure import Slot, read
from chimera.stack.encoded import Encoded, as_json

FIRST = {"version": 1}
"""What ``state_dict`` says of a module that has no version of its own."""


@dataclass
class Contents:
    """What a file holds of a module.

    Attributes:
        tensors: each distinct one once, under its first name.
        ties: from every other name of a tensor to its first.
        extra: what ``state_dict`` holds that is no tensor, in what is read.
        encoded: the same in what is written.
        unregistered: the names that ``state_dict`` does not have.
        metadata: by the module's path, what ``state_dict`` says of its version, where that is not
            the first; None in a file that does not tell.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    unregistered: list[str] = field(default_factory=list)
    encoded: Encoded = field(default_factory=Encoded)
    metadata: dict[str, dict[str, Any]] | None = None

    def named(self) -> dict[str, Tensor]:
        """Every tensor under every name of it."""
        return self.tensors | {name: self.tensors[first] for name, first in self.ties.items()}


def contents(module: nn.Module) -> Contents:
    """What of ``module`` goes into a file.

    Raises ValueError where it holds an uninitialized tensor, one on the meta device, or an extra
    state with what a file cannot say.
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
    found.metadata = metadata_of(state)
    for name, value in state.items():
        if is_extra(name):
            found.encoded.add(name, value, name)
        else:
            add(name, value)
    said = {tensor_identity(tensor) for tensor in found.encoded.tensors.values()}
    for slot in unregistered(module):
        if tensor_identity(slot.tensor) not in first.keys() | said:
            add(slot.path, slot.tensor)
            found.unregistered.append(slot.path)
    return found


def metadata_of(state: Any) -> dict[str, dict[str, Any]]:
    """What a ``state_dict`` says of its modules' versions, where that is not the first.

    Raises ValueError where a module says there what JSON cannot.
    """
    said = getattr(state, "_metadata", {})
    found = {path: dict(its) for path, its in said.items() if its != FIRST}
    for path, its in found.items():
        try:
            as_json("", its)
        except ValueError as error:
            raise ValueError(f"the metadata of {path!r} in state_dict: {error}") from None
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


def is_extra(name: str) -> bool:
    """Whether ``state_dict`` has what a module's ``get_extra_state`` gave under this name."""
    return name.rpartition(".")[2] == "_extra_state"


def as_text(value: Any) -> str | None:
    """A value as JSON, the tensors in it left out; None where JSON cannot say it."""
    leaves, shape = flatten(value, objects=True)
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        try:
            return json.dumps(as_json("", value))
        except ValueError:
            return None
    try:
        others = [as_json("", leaf) for leaf in leaves if not isinstance(leaf, Tensor)]
    except ValueError:
        return None
    return f"{shape} of tensors and {json.dumps(others)}"
