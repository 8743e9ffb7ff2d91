"""Who made which tensor in a run: remembered on the tensors themselves."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from chimera.paths.nest import tensors_in
from chimera.paths.notes import one_line
from chimera.paths.walk import join

_MADE = "_chimera_makers"
_MOST = 4
INPUT = "(the input)"
"""Stands for a path where a tensor is the network's own input."""

Marks = tuple[tuple[torch.Size, torch.dtype], ...]
"""The shapes and dtypes of the tensors of one call, in order."""


@dataclass(frozen=True)
class Makers:
    """Where a tensor comes from.

    Attributes:
        paths: of the modules whose outputs it was computed from; empty where that is not known.
        shaped: of the module that gave it its shape: what has no parameters and keeps the shape
            (an activation, say) did not.
    """

    paths: tuple[str, ...] = ()
    shaped: str | None = None

    def is_below(self, path: str) -> bool:
        """Whether it comes from one module, inside the one at ``path``."""
        if len(self.paths) != 1 or self.paths[0] == INPUT:
            return False
        return not path or self.paths[0].startswith(path + ".")

    def told(self, net: nn.Module, above: str = "") -> str | None:
        """In words: ``1, ReLU(), after 0, Linear(...)``; None where nothing is known.

        Args:
            net: the network that ran, or one like it.
            above: the path of ``net`` in a larger network.
        """

        def one(path: str) -> str:
            if path == INPUT:
                return path
            return f"{join(above, path) or 'the root'}, {one_line(net.get_submodule(path))}"

        text = " and ".join(map(one, self.paths))
        if len(self.paths) == 1 and self.shaped not in (None, INPUT, *self.paths):
            text += f", after {one(self.shaped or '')}"
        return text or None


def makers(tensor: torch.Tensor) -> Makers:
    """Who made ``tensor``."""
    found: Makers = tensor.__dict__.get(_MADE, _UNKNOWN)
    return found


_UNKNOWN = Makers()


def made_by(tensor: torch.Tensor, path: str, shaped: str | None = None) -> None:
    """Remember that ``tensor`` comes from the module at ``path``, its shape from ``shaped``."""
    tensor.__dict__[_MADE] = Makers((path,), path if shaped is None else shaped)


def pass_on(tensors: list[torch.Tensor], result: Any) -> None:
    """Let the tensors of ``result``, computed from ``tensors``, come from where those do."""
    sources = [tensor for tensor in tensors if makers(tensor).paths]
    paths = tuple(dict.fromkeys(path for source in sources for path in makers(source).paths))
    if not paths:
        return
    for tensor in tensors_in(result):
        if not makers(tensor).paths:
            shaped = makers(sources[0]).shaped if tensor.shape == sources[0].shape else None
            tensor.__dict__[_MADE] = Makers(paths[:_MOST], shaped)


def mark(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    """Shape and dtype."""
    return tensor.shape, tensor.dtype


def marks(values: Any) -> Marks:
    """Shape and dtype of every tensor in ``values``, in order."""
    return tuple(map(mark, tensors_in(values)))
