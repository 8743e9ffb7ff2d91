"""Ties: tensors and modules that stand at several paths of one tree."""

from collections.abc import Iterator

import torch
from torch import nn

from chimera.paths.walk import every_path, join


def tied_tensors(root: nn.Module) -> list[tuple[str, ...]]:
    """The paths of each parameter or buffer that has more than one, the first path first.

    A tensor in a module that stands at several paths has as many.
    """
    return _groups(
        (join(path, name), tensor)
        for path, module in every_path(root)
        for name, tensor in _own(module)
    )


def tied_modules(root: nn.Module) -> list[tuple[str, ...]]:
    """The paths of each module that has more than one, the first path first.

    The modules inside a module that stands at several paths are listed too.
    """
    return _groups(every_path(root))


def _own(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for registry in (module._parameters, module._buffers):
        for name, tensor in registry.items():
            if tensor is not None:
                yield name, tensor


def _groups(found: Iterator[tuple[str, object]]) -> list[tuple[str, ...]]:
    paths: dict[int, list[str]] = {}
    for path, thing in found:
        paths.setdefault(id(thing), []).append(path)
    return [tuple(group) for group in paths.values() if len(group) > 1]
