"""Which modules a Stack takes, and which of them form a group."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from chimera.paths.hooks import has_hooks
from chimera.paths.memory import overlapping
from chimera.paths.nest import Shape, flatten
from chimera.paths.structure import Fact, Reading, difference, read, written_attributes
from chimera.paths.walk import join
from chimera.stack.numbers import alike


def checked(modules: Any) -> list[nn.Module]:
    """The members that ``modules`` are.

    Raises:
        TypeError: ``modules`` is no sequence of modules.
        ValueError: there are none.
    """
    if isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList):
        raise TypeError(
            f"modules must be a list of modules, got one {type(modules).__name__}; "
            "ch.instances(factory, n) makes n of them"
        )
    if not isinstance(modules, Iterable):
        raise TypeError(f"modules must be a list of modules, got {modules!r:.60}")
    members = list(modules)
    if not members:
        raise ValueError("modules is empty: a stack needs at least one module")
    for index, module in enumerate(members):
        if isinstance(module, type) and issubclass(module, nn.Module):
            raise TypeError(
                f"modules[{index}] is the class {module.__name__}: pass an instance of it"
            )
        if not isinstance(module, nn.Module):
            raise TypeError(f"modules[{index}] must be a module, got {module!r:.60}")
    return members


def checked_reading(index: int, module: nn.Module) -> Reading:
    """The structure of the member at ``index``.

    Raises:
        TypeError: it holds a TorchScript module.
        ValueError: it is not built, tensors of it share memory or are sparse in other ways than
            by coordinates, a parameter has hooks, or an attribute holds a tensor as a key or
            weakly.
    """
    reading = read(module)
    for path, inner in reading.modules:
        if isinstance(inner, torch.jit.ScriptModule):
            raise TypeError(
                f"modules[{index}]: {path or 'the module itself'} is a TorchScript module, which "
                "keeps its tensors to itself; pass the module that was scripted"
            )
    for path, inner in reading.modules:
        for name, value in written_attributes(inner).items():
            _check_reachable(f"modules[{index}]: {join(path, name)}", value)
    for slot in reading.slots:
        if slot.tensor.is_leaf and has_hooks(slot.tensor):
            raise ValueError(
                f"modules[{index}]: {slot.path} has a hook of its own, which no copy of a tensor "
                "keeps; hook the module, as with register_full_backward_hook"
            )
        if slot.tensor.layout not in (torch.strided, torch.sparse_coo):
            raise ValueError(
                f"modules[{index}]: {slot.path} is {slot.tensor.layout}, which cannot be stacked; "
                "pass dense tensors or torch.sparse_coo ones, as tensor.to_sparse_coo()"
            )
        if nn.parameter.is_lazy(slot.tensor):
            raise ValueError(
                f"modules[{index}]: {slot.path} is uninitialized; build the module first, "
                "ch.build(module, ch.spec(...)), or all of them with ch.instances(..., spec=...)"
            )
    pair = overlapping(reading.slots)
    if pair is not None:
        raise ValueError(
            f"modules[{index}]: {pair[1].path} shares memory with {pair[0].path} without being "
            "the same tensor; compute it from the other in forward"
        )
    return reading


def _check_reachable(where: str, value: Any) -> None:
    """Raise ValueError where a tensor stands in an attribute where no other can take its place."""
    leaves, shape = flatten(value, objects=True)
    if any(isinstance(leaf, weakref.ref) and isinstance(leaf(), Tensor) for leaf in leaves):
        raise ValueError(
            f"{where} is a weak reference to a tensor, in whose place no member's can stand; "
            "refer to the module that holds it"
        )
    if _has_tensor_keys(shape):
        raise ValueError(
            f"{where} has a tensor as a key, in whose place no member's can stand; "
            "use its name, as in named_parameters()"
        )


def _has_tensor_keys(shape: Shape) -> bool:
    return any(isinstance(key, Tensor) for key in shape.keys) or any(
        map(_has_tensor_keys, shape.parts)
    )


def grouped(members: Sequence[nn.Module]) -> list[list[tuple[int, Reading]]]:
    """Members by structure, in order of first appearance: positions with what was read there.

    The facts that were compared are not kept: of thousands of members they are millions of objects.

    Raises:
        TypeError, ValueError: as ``checked_reading``.
    """
    groups: list[tuple[Reading, list[tuple[int, Reading]]]] = []
    for position, module in enumerate(members):
        reading = checked_reading(position, module)
        plain = alike(reading)
        like = next((found for one, found in groups if difference(one, plain) is None), None)
        if like is None:
            groups.append((plain, like := []))
        like.append((position, replace(reading, facts=[])))
    return [found for _, found in groups]


def misfit(one: nn.Module, other: Reading) -> tuple[Fact, Fact] | None:
    """The first fact that keeps a module of structure ``other`` from the place of ``one``.

    Devices may differ, which a copy crosses, and so may numeric settings.
    """
    return difference(_placeless(alike(read(one))), _placeless(alike(other)))


def _placeless(reading: Reading) -> Reading:
    facts = [fact for fact in reading.facts if fact.name != "device"]
    return replace(reading, facts=facts)
