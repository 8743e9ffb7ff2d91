"""Functions that torch cannot batch, and what computes the same for all members.

``FUNCTIONS`` maps a function of torch to another of the same arguments and results, made of
operations that ``torch.vmap`` batches. Rules of layers call these; a function that a module calls
itself is replaced by the mode that also reads conditions, where a first run showed the need.
An argument that has no batched form raises ``Unstackable``: the members then run one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from chimera.decide.split import per_member
from chimera.stack.rules.together import is_together, together

FUNCTIONS: dict[Any, Callable[..., Any]] = {}
_F = TypeVar("_F", bound=Callable[..., Any])


class Unstackable(NotImplementedError):
    """An argument that a stack rule does not cover."""


def replaces(*functions: Any) -> Callable[[_F], _F]:
    """Register a function in the place of torch's."""

    def register(replacement: _F) -> _F:
        for function in functions:
            FUNCTIONS[function] = replacement
        return replacement

    return register


def refuse_where(wrong: Tensor, message: str, kind: type[Exception] = ValueError) -> None:
    """Raise where ``wrong``, a tensor of booleans, holds anywhere in any member."""
    if any(per_member(wrong.any())):
        raise kind(message)


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """A loss as ``reduction`` wants it.

    Raises:
        ValueError: it is none of ``"none"``, ``"mean"`` and ``"sum"``.
    """
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss
    raise ValueError(f"{reduction} is not a valid value for reduction")


def refuse_legacy(*deprecated: Any) -> None:
    """Refuse the arguments that ``reduction`` has replaced."""
    if any(value is not None for value in deprecated):
        raise Unstackable("size_average and reduce run one by one; pass reduction instead")


def fold_members(
    compute: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, batched: bool
) -> tuple[Tensor, ...]:
    """Run ``compute`` once for all members, as if they were rows of one batch.

    Args:
        compute: takes tensors ``[rows, ...]`` and gives a tuple of them; a row depends on its
            own row alone.
        tensors: of one member.
        batched: their first axis is a batch's; else a member is one row.
    """
    if is_together(*tensors):
        found: tuple[Tensor, ...] = together(_folded, compute, batched, *tensors)
        return found
    if batched:
        return compute(*tensors)
    return tuple(each.squeeze(0) for each in compute(*(each.unsqueeze(0) for each in tensors)))


def _folded(size: int, compute: Any, batched: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
    if not batched:
        found: tuple[Tensor, ...] = compute(*tensors)
        return found
    rows = [tensor.shape[1] for tensor in tensors]
    if len(set(rows)) > 1:
        raise ValueError(f"tensors of one batch have {rows} rows")
    outputs = compute(*(tensor.reshape(-1, *tensor.shape[2:]) for tensor in tensors))
    return tuple(output.unflatten(0, (size, rows[0])) for output in outputs)
