"""Putting what a file holds into a module: all of it, or nothing."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from chimera.paths.structure import read
from chimera.stack.contents import (
    FIRST,
    Contents,
    is_extra,
    lies_in_parts,
    tensor_identity,
    unregistered,
)
from chimera.stack.lazies import shape_lazy
from chimera.store import CheckpointError


@dataclass
class Differences:
    """How a module and a file differ.

    Attributes:
        missing: names that only the module has.
        unknown: names that only the file has.
        untied: ties of the file that the module has not.
        homeless: unregistered tensors of the file that the module has no place for.
    """

    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    untied: list[str] = field(default_factory=list)
    homeless: list[str] = field(default_factory=list)


def restore(
    module: nn.Module,
    given: Contents,
    path: Path,
    accept: Callable[[Differences], None],
    made: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Load ``given`` into ``module``, which is left as it was when that fails.

    Uninitialized parameters take the shapes of the file. Shapes and dtypes are never adjusted.

    Args:
        module: the module.
        given: what the file holds.
        path: the file, for messages.
        accept: called once with the names that do not fit; raises to refuse them.
        made: tensors of ``module`` outside of its ``state_dict``, besides the unregistered ones.

    Raises:
        CheckpointError: a shape or dtype differs, tensors that are one in ``module`` are two
            in the file, or torch refuses to load.
    """
    own: dict[str, Any] = module.state_dict(keep_vars=True)
    named = given.named()
    homes = {slot.path: slot.tensor for slot in unregistered(module) if slot.path not in own}
    homes |= made
    outside = {name: tensor for name, tensor in named.items() if name in homes}
    homeless = [name for name in given.unregistered if name not in own and name not in homes]
    state = {name: t for name, t in named.items() if name not in outside and name not in homeless}
    state |= given.extra
    if given.metadata is not None:
        state = OrderedDict(state)
        paths = {path for path, _ in module.named_modules(remove_duplicate=False)}
        told = dict.fromkeys(paths, FIRST) | given.metadata
        setattr(state, "_metadata", told)  # noqa: B010  where torch puts it in a state_dict
    _check_fit(own | homes, state | outside, path)
    _check_ties(own | homes, state | outside, path)
    with _unchanged_on_failure(module):
        shape_lazy(module, named)
        try:
            result = module.load_state_dict(state, strict=False)
        except RuntimeError as error:
            said = " ".join(str(error).split())
            raise CheckpointError(f"{path}: cannot be loaded: {said}") from error
        with torch.no_grad():
            for name, tensor in outside.items():
                homes[name].copy_(tensor)
        own = module.state_dict(keep_vars=True) | homes
        accept(
            Differences(
                sorted(result.missing_keys),
                sorted(result.unexpected_keys),
                _ties_not_in(own, given),
                sorted(homeless),
            )
        )


def _check_fit(own: dict[str, Any], state: dict[str, Any], path: Path) -> None:
    wrong = []
    for name in own.keys() & state.keys():
        if is_extra(name):  # its module's own to take over
            continue
        mine, new = own[name], state[name]
        if isinstance(mine, Tensor) and mine.is_meta and not is_lazy(mine):
            raise CheckpointError(
                f"{path}: cannot be loaded: {name!r} of `into` is on the meta device, where "
                "tensors have no values; make it on a device that has memory, or give it some: "
                "into.to_empty(device='cpu')"
            )
        if isinstance(mine, Tensor) and _is_expanded(mine):
            raise CheckpointError(
                f"{path}: cannot be loaded: elements of {name!r} of `into` share memory, as "
                "expand() makes them; make it a tensor of its own: .clone()"
            )
        if isinstance(mine, Tensor) != isinstance(new, Tensor):
            wrong.append(f"{name!r} is {_said(new)} in the file and {_said(mine)} in `into`")
        elif not isinstance(mine, Tensor):
            continue
        elif mine.dtype != new.dtype or (not is_lazy(mine) and mine.shape != new.shape):
            wrong.append(f"{name!r} is {_said(new)} in the file and {_said(mine)} in `into`")
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise CheckpointError(f"{path}: does not fit: {'; '.join(sorted(wrong)[:3])}{more}")


def _is_expanded(tensor: Tensor) -> bool:
    """Whether elements share memory, so that none can be written."""
    if is_lazy(tensor) or tensor.layout is not torch.strided:
        return False
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.numel() > 0 and any(size > 1 and not stride for size, stride in pairs)


def _said(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "an extra state"
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype}, uninitialized" if is_lazy(value) else f"{dtype} {list(value.shape)}"


def _tied(own: dict[str, Any]) -> Iterator[list[str]]:
    """The names in ``own`` of each tensor that has several."""
    names: dict[object, list[str]] = {}
    for name, value in own.items():
        if isinstance(value, Tensor) and not is_extra(name):
            names.setdefault(tensor_identity(value), []).append(name)
    return (group for group in names.values() if len(group) > 1)


def _check_ties(own: dict[str, Any], state: dict[str, Any], path: Path) -> None:
    for group in _tied(own):
        held = [name for name in group if isinstance(state.get(name), Tensor)]
        for name in held[1:]:
            one, other = state[held[0]], state[name]
            if one is not other and not torch.equal(one, other):
                raise CheckpointError(
                    f"{path}: {held[0]!r} and {name!r} are one tensor in `into` and two different "
                    "ones in the file"
                )


def _ties_not_in(own: dict[str, Any], given: Contents) -> list[str]:
    return sorted(
        f"{stored} = {name}"
        for name, stored in given.ties.items()
        if isinstance(own.get(name), Tensor)
        and isinstance(own.get(stored), Tensor)
        and tensor_identity(own[name]) != tensor_identity(own[stored])
    )


@contextmanager
def _unchanged_on_failure(module: nn.Module) -> Iterator[None]:
    """Put every part of ``module`` back as it was when the block raises."""
    parts = [(part, type(part), _shallow(vars(part))) for part in module.modules()]
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    if not lies_in_parts(module):
        tensors = [slot.tensor for slot in read(module).slots]
    values = [(t, type(t), None if is_lazy(t) else t.data.clone()) for t in tensors]
    try:
        yield
    except BaseException:
        for part, kind, attributes in parts:
            part.__class__ = kind
            _put_back(vars(part), attributes)
        for tensor, was, value in values:
            tensor.__class__ = was
            if value is None:
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            elif not _is_expanded(tensor):
                tensor.data.copy_(value)
        raise


def _shallow(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each attribute, with a copy of what is in it where that is a container."""
    return {
        name: (value, value.copy() if isinstance(value, (dict, list, set)) else None)
        for name, value in attributes.items()
    }


def _put_back(attributes: dict[str, Any], old: dict[str, tuple[Any, Any]]) -> None:
    attributes.clear()
    for name, (value, inside) in old.items():
        if isinstance(value, list):
            value[:] = inside
        elif isinstance(value, (dict, set)):
            value.clear()
            value.update(inside)
        attributes[name] = value
