"""A fused block under torch's compiler and under ``torch.export``: its programs are what is traced.

Dynamo follows three things alone: which branches run as one (a constant, found in plain Python),
the way to their parameters, and one call that it does not look into; the operations of that call
are recorded by running it. So the time to compile does not grow with the branches' operations, and
a guard stands on every module's mode and every dropout's rate.

Rows are stacked at every call here: a graph cannot tell whether memory is still theirs.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from chimera.fuse.joint import Joint
from chimera.fuse.lowered import Lowered

Way = tuple[str, ...]
"""Names of children, from the block to a module."""

Home = tuple[Way, str, bool]
"""A module, the name of its tensor, and whether that is a buffer."""

Plan = tuple[tuple[int, tuple[int, ...], tuple[tuple[Home, ...], ...], tuple[Way, ...]], ...]
"""Of every part: its number, the branches' positions, the homes of its joints, moded modules."""

_PARTS: WeakValueDictionary[int, Lowered] = WeakValueDictionary()


def planned(block: nn.Module, parts: list[tuple[Lowered, list[int]]]) -> Plan:
    """The plan of ``parts`` with the positions of their branches."""
    ways = {id(module): way for way, module in _ways(block, ())}
    found = []
    for part, positions in parts:
        _PARTS[id(part)] = part
        homes = tuple(_homes(joint, ways) for joint in part.joints)
        moded = tuple(ways[id(module)] for modules in part.moded for module in modules)
        found.append((id(part), tuple(positions), homes, moded))
    return tuple(found)


def _ways(module: nn.Module, way: Way) -> list[tuple[Way, nn.Module]]:
    found = [(way, module)]
    for name, child in module._modules.items():
        if child is not None:
            found += _ways(child, (*way, name))
    return found


def _homes(joint: Joint, ways: dict[int, Way]) -> tuple[Home, ...]:
    return tuple((ways[id(module)], name, joint.is_buffer) for module, name in joint.places)


def at(module: nn.Module, way: Way) -> nn.Module:
    """The module below ``module`` at the end of ``way``."""
    found: Any = module
    for name in way:
        found = found._modules[name]
    return found  # type: ignore[no-any-return]


def rows_of(block: nn.Module, homes: tuple[tuple[Home, ...], ...]) -> list[Any]:
    """The tensors at ``homes``, joint after joint."""
    rows = []
    for joint in homes:
        for way, name, is_buffer in joint:
            module = at(block, way)
            rows.append(module._buffers[name] if is_buffer else module._parameters[name])
    return rows


def modes_of(block: nn.Module, moded: tuple[Way, ...]) -> list[tuple[bool, float]]:
    """Mode and rate of the modules at ``moded``; reading them here puts guards on them."""
    found = []
    for way in moded:
        module: Any = at(block, way)
        found.append((module.training, float(getattr(module, "p", 0.0))))
    return found


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def run_traced(
    number: int, inputs: list[Tensor], rows: list[Tensor], modes: list[tuple[bool, float]]
) -> Any:
    """The outputs of a part: a tensor ``[branches, ...]``, or a list.

    Args:
        number: of the part, as its plan says.
        inputs: one for all branches, or one each.
        rows: the tensors of its joints, joint after joint; buffers are written to.
        modes: of its moded modules, which the part has read by itself.
    """
    return _PARTS[number].trace(inputs, rows)
