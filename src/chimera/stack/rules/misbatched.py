"""Functions of torch whose own batching gives wrong numbers or gradients without an error.

``MISBATCHED`` maps each to a question about its arguments: whether it goes wrong with these. A run
that watches refuses such a call; the next has what computes the same by other means. Found by
holding all operations of ``torch.testing``'s list against the loop
(``tests/stack/test_operations.py``), which also tells when torch mends one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chimera.decide.split import requires_grad
from chimera.stack.rules.embedding import renormalize, rows_of
from chimera.stack.rules.functions import Unstackable, replaces

MISBATCHED: dict[Any, Callable[..., bool]] = {}


def _pads(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
) -> bool:
    """Only the first member's row ``padding_idx`` is left out of the gradient."""
    return padding_idx is not None


@replaces(F.embedding)
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``F.embedding``."""
    if sparse:
        raise Unstackable("sparse gradients have no member axis")
    if padding_idx is not None and not -len(weight) <= padding_idx < len(weight):
        raise AssertionError("Padding_idx must be within num_embeddings")
    if max_norm is not None:
        renormalize(weight, input.long(), max_norm, norm_type)
    padding = None if padding_idx is None else padding_idx % len(weight)
    return rows_of(input, weight, padding, scale_grad_by_freq)


def _pads_rows(weight: Tensor, indices: Tensor, padding_idx: int = -1, *_: Any, **__: Any) -> bool:
    """As ``_pads``, in torch's own order."""
    return padding_idx >= 0


@replaces(torch.embedding)
def rows(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``torch.embedding``, which knows no negative ``padding_idx``."""
    padding = padding_idx if padding_idx >= 0 else None
    return embedding(indices, weight, padding, None, 2.0, scale_grad_by_freq, sparse)


def _always(*_: Any, **__: Any) -> bool:
    """Whatever the arguments."""
    return True


@replaces(torch.select_scatter, Tensor.select_scatter)
def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """``torch.select_scatter``."""
    size = input.shape[dim]
    if not -size <= index < size:
        raise IndexError(f"select(): index {index} out of range for tensor of size {size}")
    if src.shape != input.select(dim, index).shape:
        raise RuntimeError("expected src to have a size equal to the slice of self")
    where = torch.tensor([index % size], device=input.device)
    return input.index_copy(dim, where, src.unsqueeze(dim % input.dim()).to(input.dtype))


def _is_number(input: Tensor, *_: Any, **__: Any) -> bool:
    """A tensor without axes is rolled over the members."""
    return input.dim() == 0


@replaces(torch.roll, Tensor.roll)
def roll(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``torch.roll``."""
    return input.clone() if input.dim() == 0 else torch.roll(input, *args, **kwargs)


MISBATCHED |= {
    Tensor.resize_: _always,  # each member's memory goes on into the next one's
    Tensor.resize_as_: _always,
    F.embedding: _pads,
    torch.embedding: _pads_rows,
    torch.roll: _is_number,
    Tensor.roll: _is_number,
    torch.select_scatter: _always,
    Tensor.select_scatter: _always,  # its gradient is summed over an axis that it has not
}


def _chunks(*_: Any, options: Any = None, **__: Any) -> bool:
    """It takes gradients where tensors say that they require one, which inside vmap none does."""
    return options is not None


def linear_cross_entropy(
    *args: Any, weight: Tensor | None = None, options: Any = None, **kwargs: Any
) -> Tensor:
    """``F.linear_cross_entropy`` without chunks, which spare memory alone."""
    if weight is not None and options is not None and requires_grad(weight):
        raise Unstackable("in chunks, gradients of classes' weights run one by one")
    found: Tensor = F.linear_cross_entropy(*args, weight=weight, **kwargs)
    return found


if hasattr(F, "linear_cross_entropy"):  # new in torch 2.13
    MISBATCHED[F.linear_cross_entropy] = _chunks
    replaces(F.linear_cross_entropy)(linear_cross_entropy)


def goes_wrong(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether torch batches a call of ``func`` wrongly without an error."""
    question = MISBATCHED.get(func)
    return question is not None and question(*args, **kwargs)
