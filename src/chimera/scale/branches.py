"""Branches: the children of Parallel blocks on the devices of one process.

Branches that share a tensor stay together, and those that share one with what is outside their
block stay on the first device, where everything else is. The rest goes to the device that has the
least, the largest branch first (Graham 1969, "longest processing time").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from chimera.blocks import Parallel
from chimera.build.inputs import Inputs
from chimera.paths.walk import join


class Branches:
    """Runs a network whose Parallel blocks have devices."""

    in_parts = False

    def __init__(self, net: nn.Module, devices: list[torch.device], reason: str) -> None:
        blocks = dict(outermost(net))
        if not blocks:
            raise ValueError(
                "distribute: mode='branches' places the branches of ch.Parallel blocks, and this "
                f"{type(net).__name__} has none; use mode='replicate' or 'shard'"
            )
        placed = {path: _placed(net, block, len(devices)) for path, block in blocks.items()}
        net.to(devices[0])
        lines = [reason]
        for path, block in blocks.items():
            block.devices = tuple(devices[place] for place in placed[path])
            for (name, branch), device in zip(block.named_children(), block.devices, strict=True):
                branch.to(device)
                lines.append(f"{join(path, name)}: on {device}")
        self.reason = "\n".join(lines)
        self._net, self._first = net, devices[0]

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def on_first(leaf: Any) -> Any:
            return leaf.to(self._first) if isinstance(leaf, Tensor) else leaf

        given = Inputs(args, kwargs).map(on_first)
        return self._net(*given.args, **given.kwargs)

    def whole(self, value: Any) -> Any:
        return value

    def taken(self, state: dict[str, Any]) -> dict[str, Any]:
        return state

    def write(self, action: Callable[[], None]) -> None:
        action()


def outermost(net: nn.Module, path: str = "") -> Iterator[tuple[str, Parallel]]:
    """The Parallel blocks of ``net`` that are in no other one, by path."""
    if isinstance(net, Parallel):
        yield path, net
        return
    for name, child in net.named_children():
        yield from outermost(child, join(path, name))


def _placed(net: nn.Module, block: Parallel, devices: int) -> list[int]:
    """For each branch its device's index; the first one's is 0, where outputs are joined."""
    branches = list(block)
    inside = [{id(t) for t in _tensors(branch)} for branch in branches]
    outside = _outside(net, block)
    sizes = [sum(t.numel() for t in branch.parameters()) + 1 for branch in branches]
    sets = _together(inside)
    load = [0] * devices
    place = [0] * len(branches)

    def put(members: list[int], device: int) -> None:
        load[device] += sum(sizes[i] for i in members)
        for i in members:
            place[i] = device

    free = []
    for members in sets:
        tied = any(inside[i] & outside for i in members)
        if tied or 0 in members:
            put(members, 0)
        else:
            free.append(members)
    for members in sorted(free, key=lambda members: -sum(sizes[i] for i in members)):
        put(members, load.index(min(load)))
    return place


def _together(inside: list[set[int]]) -> list[list[int]]:
    """The branches in sets that share no tensor."""
    sets: list[tuple[set[int], list[int]]] = []
    for i, own in enumerate(inside):
        touching = [known for known in sets if known[0] & own]
        sets = [known for known in sets if known not in touching]
        tensors = own.union(*(known[0] for known in touching))
        sets.append((tensors, sorted([*(j for known in touching for j in known[1]), i])))
    return sorted((members for _, members in sets), key=min)


def _outside(net: nn.Module, block: Parallel) -> set[int]:
    """The tensors that stand at a path outside ``block``."""
    if net is block:
        return set()
    own = (*net._parameters.values(), *net._buffers.values())
    found = {id(tensor) for tensor in own if tensor is not None}
    return found.union(*(_outside(child, block) for child in net.children()))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
