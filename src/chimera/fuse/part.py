"""A part of a block: branches that run as one, whatever the way.

``Lowered`` runs a program of operations with a lane axis, ``SideBySide`` one of lanes of their own
widths, ``Batched`` any forward under ``torch.vmap``. All use the branches' own parameters and
buffers, see ``joint``, and draw nothing that the branches alone would not draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from chimera.fuse.joint import Joint
from chimera.fuse.reached import Reach

Given = list[tuple[Any, ...]]
"""The positional arguments of every branch."""


class Part(Protocol):
    """Branches of one structure that run as one.

    Attributes:
        joints: their parameters and buffers.
        moded: the modules whose mode matters, one tuple a layer.
        kind: what decides when it wins, see ``choice``.
        layers: how many modules without children one branch has.
        structure: equal for parts that take the same time.
        said: more on how a call ran, for ``explain``; empty where there is no more.
    """

    joints: list[Joint]
    moded: list[tuple[nn.Module, ...]]
    kind: str
    layers: int
    structure: Any
    said: str

    def refuses(self, given: Given, named: dict[str, Any], *, whole: bool) -> str | None:
        """Why this call cannot run as one, or None; ``whole``: the part is all of its block."""

    def run(self, given: Given, named: dict[str, Any], reach: Reach) -> Any:
        """The branches' outputs: a tensor ``[branches, ...]``, lanes side by side, else a list.

        ``reach`` tells the backward which branches' outputs were used; what is a list is parted by
        it already.

        Raises:
            Refused: the call cannot run as one after all; nothing was changed.
        """

    def work(self, given: Given) -> float:
        """Floating-point operations of one branch's forward, counted or estimated."""


def structure_of(part: Part, branches: Sequence[nn.Module]) -> Any:
    """What parts that take the same time have in common."""
    kinds = tuple((type(module), module.extra_repr()) for module in branches[0].modules())
    shapes = tuple(tuple(joint.current()[0].shape) for joint in part.joints)
    return (part.kind, len(branches), kinds, shapes)


def layers_of(branch: nn.Module) -> int:
    """How many modules without children a branch has."""
    return sum(not any(module.children()) for module in branch.modules())


def said_by(error: Exception) -> str:
    """What an error says, in a line."""
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said[:160]}"
