"""``EmbeddingBag``, and tables of a largest norm, with a member axis.

Shapes: V rows of a table, D features, K items in all bags, B bags.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.functions import Unstackable, replaces
from chimera.stack.rules.table import rule
from chimera.stack.rules.together import is_together, together


@torch.no_grad()
def renormalize(weight_VD: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> None:
    """Shorten the rows that ``indices`` name to ``max_norm`` where they are longer."""
    named_V = torch.zeros(len(weight_VD), dtype=torch.int64, device=weight_VD.device)
    named_V = named_V.index_add(0, indices.flatten(), torch.ones_like(indices.flatten())) > 0
    norm_V = weight_VD.norm(norm_type, dim=1)
    long_V = named_V & (norm_V > max_norm)
    scale_V = torch.where(long_V, max_norm / (norm_V + 1e-7), 1).to(weight_VD.dtype)
    weight_VD.detach().copy_(weight_VD * scale_V.unsqueeze(1))


def rows_of(
    indices: Tensor, weight: Tensor, padding: int | None = None, by_frequency: bool = False
) -> Tensor:
    """The rows of a table that ``indices`` name; no gradient reaches the row ``padding``."""
    if not is_together(indices, weight):
        return F.embedding(indices, weight, padding, scale_grad_by_freq=by_frequency)
    found: Tensor = together(_rows, indices, weight, padding, by_frequency)
    return found


def _rows(
    size: int, indices: Tensor, weight_NVD: Tensor, padding: int | None, by_frequency: bool
) -> Tensor:
    """The tables of all members are one long table."""
    rows = weight_NVD.shape[1]
    first = rows * torch.arange(size, device=indices.device).view(-1, *[1] * (indices.dim() - 1))
    # An index out of range would name a neighbour's row: it shall name none.
    known = (indices >= 0) & (indices < rows)
    places = torch.where(known, indices + first, size * rows)
    found = F.embedding(places, weight_NVD.flatten(0, 1), scale_grad_by_freq=by_frequency)
    if padding is None:
        return found
    return torch.where((indices == padding).unsqueeze(-1), found.detach(), found)


@rule(nn.Embedding, "gathered rows", casts=True)
def embedding(module: nn.Embedding, indices: Tensor) -> Tensor:
    """``Embedding.forward`` for all members."""
    if module.sparse:
        raise Unstackable("sparse gradients have no member axis")
    if module.max_norm is not None:
        renormalize(module.weight, indices.long(), module.max_norm, module.norm_type)
    return rows_of(indices, module.weight, module.padding_idx, module.scale_grad_by_freq)


@replaces(F.embedding_bag)
def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """``F.embedding_bag``."""
    if sparse or scale_grad_by_freq:
        raise Unstackable("sparse gradients and gradients scaled by frequency run one by one")
    if per_sample_weights is not None and (
        mode != "sum" or per_sample_weights.shape != input.shape
    ):
        raise Unstackable("per_sample_weights need mode='sum' and the shape of the input")
    rows = len(weight)
    if max_norm is not None:
        renormalize(weight, input.long(), max_norm, norm_type)
    if padding_idx is not None and padding_idx < 0:
        padding_idx += rows
    counted = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        counted = input != padding_idx
    found = rows_of(input, weight)
    if per_sample_weights is not None:
        found = found * per_sample_weights.unsqueeze(-1)
    if input.dim() == 2:
        if offsets is not None:
            raise ValueError("if input is 2D, then offsets has to be None")
        return _of_rows(found, counted, mode)
    if offsets is None or offsets.dim() != 1:
        raise ValueError("offsets has to be a 1D Tensor")
    if mode == "max":
        raise Unstackable("mode='max' with offsets runs one by one")
    return _of_bags(found, counted, offsets[:-1] if include_last_offset else offsets, mode)


def _of_rows(found_BKD: Tensor, counted_BK: Tensor, mode: str) -> Tensor:
    """Every row is a bag."""
    counted_BK1 = counted_BK.unsqueeze(-1)
    if mode == "max":
        largest_BD = found_BKD.masked_fill(~counted_BK1, float("-inf")).max(1).values
        return largest_BD.masked_fill(~counted_BK.any(1, keepdim=True), 0)
    sum_BD = (found_BKD * counted_BK1).sum(1)
    return sum_BD if mode == "sum" else sum_BD / counted_BK1.sum(1).clamp_min(1)


def _of_bags(found_KD: Tensor, counted_K: Tensor, offsets_B: Tensor, mode: str) -> Tensor:
    """A bag reaches from its offset to the next."""
    items = torch.arange(len(found_KD), device=found_KD.device)
    bag_K = (items.unsqueeze(1) >= offsets_B).sum(1) - 1
    sum_BD = found_KD.new_zeros(len(offsets_B), found_KD.shape[1])
    sum_BD = sum_BD.index_add(0, bag_K, found_KD * counted_K.unsqueeze(1))
    if mode == "sum":
        return sum_BD
    count_B = found_KD.new_zeros(len(offsets_B)).index_add(0, bag_K, counted_K.to(found_KD.dtype))
    return sum_BD / count_B.clamp_min(1).unsqueeze(1)


@rule(nn.EmbeddingBag, "gathered rows", casts=True)
def _embedding_bag(
    module: nn.EmbeddingBag,
    input: Tensor,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
) -> Tensor:
    options: dict[str, Any] = {
        "max_norm": module.max_norm,
        "norm_type": module.norm_type,
        "scale_grad_by_freq": module.scale_grad_by_freq,
        "mode": module.mode,
        "sparse": module.sparse,
        "include_last_offset": module.include_last_offset,
        "padding_idx": module.padding_idx,
    }
    return embedding_bag(
        input, module.weight, offsets, per_sample_weights=per_sample_weights, **options
    )
