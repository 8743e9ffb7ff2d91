"""The state of an optimizer, checked before any of it is taken over."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from chimera.optim.groups import Entry, ParameterGroup

LIKE, COUNT, ROWS = "as the parameter", "one number, or one a row", "one truth value a row"


def empty_state(entry: Entry, tensors: Mapping[str, str]) -> dict[str, Tensor]:
    """The state of a parameter before its first step, zeros."""
    parameter = entry.parameter
    return {
        name: {
            LIKE: lambda: torch.zeros_like(parameter, requires_grad=False),
            COUNT: lambda: torch.zeros((), dtype=torch.float32, device=parameter.device),
            ROWS: lambda: torch.zeros(len(parameter), dtype=torch.bool),
        }[what]()
        for name, what in tensors.items()
    }


def checked_state(
    own: dict[str, Any],
    groups: list[ParameterGroup],
    tensors: dict[str, str],
    given: dict[str, Any],
) -> list[list[dict[str, Tensor]]]:
    """For each group, the state of each of its parameters: copies, on the parameter's device.

    Args:
        own: what the optimizer says of itself in the state: its class, its members, its options.
        groups: the optimizer's groups.
        tensors: the names that a parameter's state holds, each LIKE, COUNT or ROWS.
        given: what ``state_dict`` gave.

    Raises:
        TypeError: ``given`` is no mapping.
        ValueError: something does not fit; the key and both sides are named.
    """
    kind = own["optimizer"]
    if not isinstance(given, Mapping):
        raise TypeError(f"{kind}: a state is a dict as state_dict() gives it, got {given!r:.60}")
    _same_keys(f"{kind}: the state", {*own, "steps", "groups", "state"}, set(given))
    for what, wanted in own.items():
        if given[what] != wanted:
            raise ValueError(f"{kind}: the state is of {what} {given[what]!r}, not {wanted!r}.")
    if not isinstance(given["steps"], int) or given["steps"] < 0:
        raise ValueError(f"{kind}: steps is a count; got {given['steps']!r}.")
    if len(given["groups"]) != len(groups):
        raise ValueError(
            f"{kind}: the state has {len(given['groups'])} parameter groups, not {len(groups)}."
        )
    for i, (group, theirs) in enumerate(zip(groups, given["groups"], strict=True)):
        _same_keys(f"{kind}: group {i}", {"params", *group.settings}, set(theirs))
        names = [entry.name for entry in group.entries]
        if sorted(theirs["params"]) != sorted(names):
            differ = sorted(set(theirs["params"]) ^ set(names))
            raise ValueError(f"{kind}: group {i} holds other parameters; they differ in {differ}.")
    known = {entry.name for group in groups for entry in group.entries}
    extra = sorted(set(given["state"]) - known)
    if extra:
        raise ValueError(
            f"{kind}: the state has tensors of parameters that are not there: {extra}."
        )
    return [
        [_of_entry(kind, entry, tensors, given["state"].get(entry.name, {})) for entry in g.entries]
        for g in groups
    ]


def _of_entry(
    kind: str, entry: Entry, tensors: dict[str, str], given: dict[str, Any]
) -> dict[str, Tensor]:
    if not given:
        return {}
    _same_keys(f"{kind}: the state of {entry.name}", set(tensors), set(given))
    found = {}
    for name, like in empty_state(entry, tensors).items():
        tensor = given[name]
        shapes = [like.shape]
        if tensors[name] == COUNT:
            shapes.append(entry.parameter.shape[:1])
        if not isinstance(tensor, Tensor) or tensor.shape not in shapes:
            came = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"{kind}: {name} of {entry.name} is {came}, not a tensor of {tuple(like.shape)}."
            )
        found[name] = tensor.detach().to(like.device, like.dtype, copy=True)
    return found


def _same_keys(what: str, wanted: set[str], came: set[str]) -> None:
    if wanted != came:
        raise ValueError(
            f"{what} lacks {sorted(wanted - came)} and has {sorted(came - wanted)} too many."
        )
