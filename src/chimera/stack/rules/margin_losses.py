"""Losses of margins with a member axis, as torch's documentation defines them.

Shapes: B rows of one member, C classes; x_BC, targets_B or targets_BC.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.functions import reduced, refuse_legacy, replaces
from chimera.stack.rules.table import rule


@replaces(F.margin_ranking_loss)
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """``F.margin_ranking_loss``."""
    refuse_legacy(size_average, reduce)
    if not input1.dim() == input2.dim() == target.dim():
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()} "
        )
    return reduced((-target * (input1 - input2) + margin).clamp_min(0), reduction)


@rule(nn.MarginRankingLoss, "margins of all members")
def _margin_ranking(module: Any, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
    return margin_ranking_loss(
        input1, input2, target, margin=module.margin, reduction=module.reduction
    )


@replaces(F.soft_margin_loss)
def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """``F.soft_margin_loss``."""
    refuse_legacy(size_average, reduce)
    return reduced((-target * input).exp().add(1).log(), reduction)


@rule(nn.SoftMarginLoss, "margins of all members")
def _soft_margin(module: Any, input: Tensor, target: Tensor) -> Tensor:
    return soft_margin_loss(input, target, reduction=module.reduction)


@replaces(F.multi_margin_loss)
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """``F.multi_margin_loss``."""
    refuse_legacy(size_average, reduce)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    x_BC = input if input.dim() == 2 else input.unsqueeze(0)
    y_B1 = target.reshape(-1, 1)
    gap_BC = (margin - x_BC.gather(1, y_B1) + x_BC).relu()
    gap_BC = gap_BC if p == 1 else gap_BC * gap_BC
    if weight is not None:
        gap_BC = gap_BC * weight[y_B1]
    own_BC = torch.arange(x_BC.shape[1], device=x_BC.device) == y_B1
    loss_B = gap_BC.masked_fill(own_BC, 0).sum(1) / x_BC.shape[1]
    return reduced(loss_B if target.dim() else loss_B.squeeze(0), reduction)


@rule(nn.MultiMarginLoss, "margins of all members")
def _multi_margin(module: Any, input: Tensor, target: Tensor) -> Tensor:
    return multi_margin_loss(
        input,
        target,
        p=module.p,
        margin=module.margin,
        weight=module.weight,
        reduction=module.reduction,
    )


@replaces(F.multilabel_margin_loss)
def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """``F.multilabel_margin_loss``: the labels of a row end at its first -1."""
    refuse_legacy(size_average, reduce)
    if input.shape != target.shape:
        raise RuntimeError(
            f"inconsistent target size {list(target.shape)} for input of size {list(input.shape)}"
        )
    x_BC, y_BC = (each if each.dim() == 2 else each.reshape(1, -1) for each in (input, target))
    classes = x_BC.shape[1]
    label_BC = (y_BC >= 0).to(x_BC.dtype).cumprod(1)
    # A label out of range shall name no class, so that gather refuses it.
    index_BC = torch.where(y_BC < -1, classes, y_BC.clamp_min(0))
    is_label_BC = torch.zeros_like(x_BC).scatter_add(1, index_BC, label_BC) > 0
    gap_BCC = (1 - x_BC.gather(1, index_BC).unsqueeze(2) + x_BC.unsqueeze(1)).relu()
    counted_BCC = label_BC.unsqueeze(2) * (~is_label_BC).unsqueeze(1)
    loss_B = (gap_BCC * counted_BCC).sum((1, 2)) / classes
    return reduced(loss_B if input.dim() == 2 else loss_B.squeeze(0), reduction)


@rule(nn.MultiLabelMarginLoss, "margins of all members")
def _multilabel_margin(module: Any, input: Tensor, target: Tensor) -> Tensor:
    return multilabel_margin_loss(input, target, reduction=module.reduction)


@replaces(F.triplet_margin_loss)
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """``F.triplet_margin_loss``."""
    refuse_legacy(size_average, reduce)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    near = F.pairwise_distance(anchor, positive, p, eps)
    far = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = torch.minimum(far, F.pairwise_distance(positive, negative, p, eps))
    return reduced((margin + near - far).clamp_min(0), reduction)


@rule(nn.TripletMarginLoss, "margins of all members")
def _triplet_margin(module: Any, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return triplet_margin_loss(
        anchor,
        positive,
        negative,
        margin=module.margin,
        p=module.p,
        eps=module.eps,
        swap=module.swap,
        reduction=module.reduction,
    )
