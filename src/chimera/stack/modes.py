"""Which modules of a Stack's members are in training mode, by ``groups.<g>.<path>``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from chimera.stack.group import Group


def modes_of(groups: Sequence[Group]) -> dict[str, bool]:
    """The mode of each module that the members of a group have in common."""
    return {name: module.training for name, module in _shared(groups).items()}


def check_modes(groups: Sequence[Group], modes: Iterable[str]) -> None:
    """Refuse names that no module of the groups has.

    Raises:
        ValueError: of the first such name.
    """
    shared = _shared(groups)
    unknown = sorted(set(modes) - shared.keys())
    if unknown:
        raise ValueError(f"modes: the stack has no {unknown[0]!r}; it has {sorted(shared)}")


def set_modes_of(groups: Sequence[Group], modes: Mapping[str, bool]) -> None:
    """Set the modes of modules that the groups have."""
    shared = _shared(groups)
    for name, mode in modes.items():
        shared[name].training = mode


def _shared(groups: Sequence[Group]) -> dict[str, nn.Module]:
    return {
        f"groups.{number}.{path}".rstrip("."): module
        for number, group in enumerate(groups)
        for path, module in group.reading.modules
    }
