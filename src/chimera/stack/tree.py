"""The tree of containers in which the stacked tensors of a group stand, by the members' paths."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chimera.paths.structure import Slot


class Tree(nn.Module):
    """A container: stacked tensors and further containers, by the names of the members' paths."""


def register(
    tree: Tree, slot: Slot, stacked: Tensor, *, lasting: bool = True
) -> tuple[nn.Module, str]:
    """Let the stacked tensor of a slot stand in the tree; gives its container and name there.

    Where it is not ``lasting``, no ``state_dict`` has it.
    """
    *above, name = _pieces(slot.path)
    container: nn.Module = tree
    for piece in above:
        if piece not in container._modules:
            container.add_module(piece, Tree())
        container = container.get_submodule(piece)
    while hasattr(container, name):  # a name in brackets loses its dots, and may meet another
        name += "_"
    if is_trained(slot):
        container.register_parameter(name, _as_parameter(stacked))
    else:
        container.register_buffer(name, stacked, persistent=slot.persistent and lasting)
    return container, name


def is_trained(slot: Slot) -> bool:
    """Whether a slot holds a parameter that the module registers."""
    return slot.kind == "parameter" and not slot.hidden


def stacked(slots: Sequence[Slot]) -> Tensor:
    """The tensors of one slot of all members ``[members, ...]``, without their graphs."""
    tensor = torch.stack([slot.tensor.detach() for slot in slots])
    if is_trained(slots[0]):
        return nn.Parameter(tensor, requires_grad=any(slot.tensor.requires_grad for slot in slots))
    return tensor


def _as_parameter(stacked: Tensor) -> nn.Parameter:
    if isinstance(stacked, nn.Parameter):
        return stacked
    return nn.Parameter(stacked, requires_grad=stacked.is_floating_point())


def _pieces(path: str) -> list[str]:
    """The names along a path; a dot inside brackets (a dict's key) does not part two of them."""
    pieces = re.findall(r"(?:[^.\[]|\[[^\]]*\])+", path)
    return [_free_name(piece.replace(".", "_")) for piece in pieces]


def _free_name(piece: str) -> str:
    """A container's own attributes keep their names: a tensor called ``type`` becomes ``type_``."""
    return piece + "_" if hasattr(nn.Module, piece) or piece == "training" else piece
