"""A copy of a network without its data.

The copy shares nothing with the network that a run could change. Ties hold: what is one tensor or
one module in the network is one in the copy. Small tensors keep their data (a copy of it), so that
a run can read a number from a constant.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from chimera.build.datafree import SMALL, is_uninitialized
from chimera.build.hooked import keep_hooks, rebind

_UNCOPIED = (TypeError, ValueError, RuntimeError, AttributeError, copy.Error)


def twin(net: nn.Module) -> nn.Module:
    """A copy of ``net`` in which tensors of more than ``SMALL`` elements have no data."""
    return copy_with(net, without_data)


def replica(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with its data."""
    return copy_with(net, with_data)


def copy_with(net: nn.Module, copy_tensor: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A deep copy of ``net`` with ``copy_tensor(tensor)`` for each of its tensors.

    An attribute that cannot be copied (a lock, an open file) is shared with ``net``. Hooks are
    those of the copy: what they gather, they gather beside what the hooks of ``net`` do.
    """
    copied: dict[int, Any] = {id(tensor): copy_tensor(tensor) for tensor in tensors_of(net)}
    keep_hooks(net, copied)
    try:
        return _copied(net, dict(copied))
    except _UNCOPIED:
        known = copied | {id(module): module for module in net.modules()}
        for module in net.modules():
            for value in module.__dict__.values():
                if not _can_copy(value, known):
                    copied[id(value)] = value
    return _rebound(net, copy.deepcopy(net, memo := dict(copied)), memo)


def _copied(net: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """``copy.deepcopy(net, memo)``, which takes most of its time for a module's empty dicts."""
    modules = list(net.modules())
    kinds = {kind for kind in map(type, modules) if _is_copied_plainly(kind)}
    plain = [module for module in modules if type(module) in kinds]
    for module in plain:
        memo[id(module)] = type(module).__new__(type(module))
    for module in plain:
        attributes = memo[id(module)].__dict__
        for name, value in module.__dict__.items():
            if name in _EVERY_MODULES and type(value) in _EMPTIED and not value:
                attributes[name] = type(value)()
            elif type(value) in _ATOMS:
                attributes[name] = value
            elif name != "_compiled_call_impl":  # which torch's own copies leave out
                attributes[name] = _copied_value(value, memo)
    made = memo[id(net)] if id(net) in memo else copy.deepcopy(net, memo)
    return _rebound(net, made, memo)


def _rebound(net: nn.Module, made: nn.Module, memo: dict[int, Any]) -> nn.Module:
    memo.setdefault(id(net), made)
    rebind(net, memo)
    return made


def _copied_value(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if id(value) not in memo and kind in _EMPTIED:
        if not value:
            memo[id(value)] = kind()
        elif kind is dict and all(type(k) is str and _is_known(v, memo) for k, v in value.items()):
            memo[id(value)] = {k: None if v is None else memo[id(v)] for k, v in value.items()}
    return memo[id(value)] if id(value) in memo else copy.deepcopy(value, memo)


def _is_known(value: Any, memo: dict[int, Any]) -> bool:
    return value is None or id(value) in memo


_EMPTIED = (dict, OrderedDict, set)

_EVERY_MODULES = frozenset(vars(nn.Module()))
"""What every module holds: mostly empty dicts, each of one module alone."""

_ATOMS = frozenset((bool, int, float, str, bytes, type(None)))


def _is_copied_plainly(kind: type[nn.Module]) -> bool:
    """Whether ``copy.deepcopy`` copies a module of this class by its ``__dict__`` alone."""
    return (
        kind.__new__ is object.__new__
        and kind.__reduce__ is object.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__getstate__ is nn.Module.__getstate__
        and kind.__setstate__ is nn.Module.__setstate__
        and not any(hasattr(kind, name) for name in _OWN_WAYS)
        and not any("__slots__" in vars(base) for base in kind.__mro__)
    )


_OWN_WAYS = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__")


def _can_copy(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except _UNCOPIED:
        return False
    return True


def tensors_of(net: nn.Module) -> Iterator[torch.Tensor]:
    """Every distinct tensor of ``net``: parameters, buffers, attributes and what lists, tuples,
    sets and dicts among the attributes hold."""
    seen: set[int] = set()
    for module in net.modules():
        for name, value in module.__dict__.items():
            kind = type(value)
            if name == "_modules" or kind in _ATOMS or (kind in _EMPTIED and not value):
                continue
            for tensor in _tensors_in(value):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _tensors_in(item)


def without_data(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor like ``tensor``: without data, or a copy if it is small."""
    if is_uninitialized(tensor):
        return _blank(tensor, torch.device("meta"))
    if tensor.numel() <= SMALL and not tensor.is_meta:
        return with_data(tensor, torch.device("cpu"))
    return _like(tensor, tensor.detach().to("meta"))


def with_data(tensor: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """A copy of ``tensor``, detached from its graph."""
    if is_uninitialized(tensor):
        return _blank(tensor, tensor.data.device)
    values = tensor.detach()
    return _like(tensor, values.to(device or values.device, copy=True))


def _blank(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor that waits for its shape, as ``tensor`` does."""
    kind: Any = type(tensor)
    blank = kind(tensor.requires_grad, device=device, dtype=tensor.data.dtype)
    return _like(tensor, blank)


def _like(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values`` as what ``tensor`` is: a parameter or not, with the same attributes."""
    if isinstance(tensor, nn.Parameter) and not is_uninitialized(values):
        values = nn.Parameter(values, requires_grad=tensor.requires_grad)
    elif not is_uninitialized(values):
        values.requires_grad_(tensor.requires_grad)
    values.__dict__.update(tensor.__dict__)
    return values
