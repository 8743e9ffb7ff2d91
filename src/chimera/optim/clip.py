"""Clipping every member's gradients by their norm, as ``clip_grad_norm_`` does for one module.

torch's own, on the stacked parameters, would couple the members: one norm for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chimera.optim.groups import Stacked, StackedParameter
from chimera.optim.settings import Range, Setting
from chimera.stack.absent import absent, nothing

_SMALL = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class Clip:
    """Scales the gradients of members whose norm is too large.

    Args:
        stack: the members.
        limit: the largest L2 norm of all of a member's gradients together: a number, or one per
            member, a list or tensor ``[N]`` on any device.

    Raises:
        TypeError: neither a number nor numbers.
        ValueError: a wrong number of values, or one below 0; the member is named.
    """

    def __init__(self, stack: Stacked, limit: Any) -> None:
        self._limit = Setting("clip", limit, len(stack), Range())
        self._groups: dict[tuple[int, ...], list[StackedParameter]] = {}
        self._kept: Tensor | None = None
        for entry in stack.layout():
            self._groups.setdefault(tuple(entry.members.tolist()), []).append(entry)

    @property
    def plain(self) -> float | list[float]:
        """The limit as a number, or a list of one per member."""
        return self._limit.plain()

    @torch.no_grad()
    def __call__(self) -> None:
        """Scale the gradients, in place.

        Raises:
            TypeError: a gradient is sparse.
        """
        limits = self._limit.values()
        for members, entries in self._groups.items():
            ready = [(e, e.parameter.grad) for e in entries if e.parameter.grad is not None]
            gradients = [gradient for _, gradient in ready]
            if any(gradient.is_sparse for gradient in gradients):
                raise TypeError("clip: a gradient is sparse; make its layer with sparse=False")
            left_out = [(g, absent(g)) for entry, g in ready if entry.partial]
            if gradients:
                _scale(gradients, limits[list(members)])
            for gradient, rows in left_out:
                if rows is not None:  # what a norm of NaN has made of them
                    gradient[rows] = nothing(gradient)[rows]

    def limits(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The limits of all members ``[members]``; the same tensor each time."""
        if self._kept is None or (self._kept.device, self._kept.dtype) != (device, dtype):
            self._kept = self._limit.values().to(device, dtype)
        return self._kept

    def scaled(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], limits: Tensor
    ) -> list[Tensor | None]:
        """The gradients scaled, as new tensors.

        Args:
            parameters: of the stack.
            gradients: theirs.
            limits: what ``limits`` gave.
        """
        found = list(gradients)
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        for members, entries in self._groups.items():
            mine = [places[id(e.parameter)] for e in entries if id(e.parameter) in places]
            mine = [place for place in mine if gradients[place] is not None]
            chosen = [gradient for place in mine if (gradient := gradients[place]) is not None]
            if not chosen:
                continue
            whole = list(members) == list(range(len(limits)))
            index = torch.tensor(members, device=limits.device)
            factor = _factor(chosen, limits if whole else limits.index_select(0, index))
            for place, gradient in zip(mine, chosen, strict=True):
                found[place] = gradient * factor.to(gradient.device, gradient.dtype).view(
                    -1, *[1] * (gradient.dim() - 1)
                )
        return found


def _scale(gradients: list[Tensor], limit: Tensor) -> None:
    """Clip the gradients ``[members of the group, ...]`` of one group, in place."""
    factor = _factor(gradients, limit)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.device).view(-1, *[1] * (gradient.dim() - 1)))


def _factor(gradients: list[Tensor], limit: Tensor) -> Tensor:
    """What each member's gradients are multiplied with ``[members of the group]``."""
    first = gradients[0].device
    rows = [gradient.reshape(len(gradient), -1) for gradient in gradients]
    norms = [torch.linalg.vector_norm(row, dim=1).to(first) for row in rows]
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    factor: Tensor = limit.to(total) / (total + _SMALL)
    return factor.clamp(max=1.0)
