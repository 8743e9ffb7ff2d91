"""The repeated blocks of a tree: siblings of one make that hold much of a network."""

from __future__ import annotations

from collections import Counter

from torch import nn

from chimera.paths.walk import every_path, join

_SHARE = 0.1
"""Siblings of one make that hold less of the parameters than this are no blocks."""

_WITHOUT_FORWARD = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def repeated_blocks(net: nn.Module) -> dict[str, nn.Module]:
    """The outermost repeated blocks of ``net`` by path.

    Blocks are children of one parent, two or more of one class with parameters of the same names,
    shapes and dtypes, which together hold a tenth of the network's parameters or more. A module at
    several paths, and one that shares a tensor with what is outside it, is none: it belongs to the
    root.
    """
    places = Counter(module for _, module in every_path(net))
    homes: dict[int, list[str]] = {}
    for path, module in every_path(net):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                homes.setdefault(id(parameter), []).append(join(path, name))
    total = sum(p.numel() for p in net.parameters())

    def own(path: str, module: nn.Module) -> bool:
        homes_inside = (h.startswith(f"{path}.") for p in module.parameters() for h in homes[id(p)])
        return places[module] == 1 and all(homes_inside)

    found: dict[str, nn.Module] = {}

    def search(parent: nn.Module, path: str) -> None:
        groups: dict[object, list[tuple[str, nn.Module]]] = {}
        for name, child in parent.named_children():
            if not isinstance(child, _WITHOUT_FORWARD):
                groups.setdefault(_make(child), []).append((join(path, name), child))
        for alike in groups.values():
            held = sum(p.numel() for _, child in alike for p in child.parameters())
            if len(alike) > 1 and held >= _SHARE * total:
                found.update((where, child) for where, child in alike if own(where, child))
        for name, child in parent.named_children():
            if join(path, name) not in found:
                search(child, join(path, name))

    search(net, "")
    return found


def _make(module: nn.Module) -> object:
    parameters = tuple((n, p.shape, p.dtype, p.requires_grad) for n, p in module.named_parameters())
    return type(module), parameters
