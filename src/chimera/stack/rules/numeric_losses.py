"""Losses and distances whose numbers differ between members: margins, smoothing, eps, beta.

The formulas are those of torch's documentation of each class. Shapes: B rows of one member, D
features, C classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.functions import Unstackable, reduced
from chimera.stack.rules.numeric import (
    PerMember,
    any_number,
    chance,
    exact,
    not_negative,
    number,
    numeric,
    refuse_autocast,
    signed,
    wide,
)
from chimera.stack.rules.probability_losses import refuse_negative

_TINY = 1e-12  # what torch adds to the squares in a cosine embedding loss


def _given(module: Any, x: Tensor, *others: Tensor) -> list[Tensor]:
    """The inputs, in the dtype to compute in."""
    refuse_autocast(module, x)
    return [wide(each) for each in (x, *others)]


def _result(module: Any, loss: Tensor, like: Tensor) -> Tensor:
    return reduced(loss, module.reduction).to(like.dtype)


def _alike(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise Unstackable("an input and a target of different shapes run one by one")


@numeric(nn.SmoothL1Loss, beta=not_negative)
def smooth_l1(module: Any, x: Tensor, y: Tensor) -> Tensor:
    _alike(x, y)
    a, b = _given(module, x, y)
    beta, away = number(module, "beta", a), (a - b).abs()
    # At beta 0 every difference is far; one over it would make the gradient no number.
    least = torch.where(beta > 0, beta, 1) if isinstance(beta, Tensor) else beta
    near = 0.5 * away.square() / least
    return _result(module, torch.where(away < beta, near, away - 0.5 * beta), x)


@numeric(nn.HuberLoss, delta=signed)
def huber(module: Any, x: Tensor, y: Tensor) -> Tensor:
    _alike(x, y)
    a, b = _given(module, x, y)
    delta, away = number(module, "delta", a), (a - b).abs()
    far = delta * (away - 0.5 * delta)
    return _result(module, torch.where(away <= delta, 0.5 * away.square(), far), x)


@numeric(nn.HingeEmbeddingLoss, margin=any_number)
def hinge_embedding(module: Any, x: Tensor, y: Tensor) -> Tensor:
    (a,) = _given(module, x)
    short = (number(module, "margin", a) - a).clamp_min(0)
    loss = torch.where(y != 1, short, 0) + torch.where(y != -1, a, 0)
    return _result(module, loss, x)


@numeric(nn.CosineEmbeddingLoss, margin=any_number)
def cosine_embedding(module: Any, x1: Tensor, x2: Tensor, y: Tensor) -> Tensor:
    a, b = _given(module, x1, x2)
    squares = (a.square().sum(-1) + _TINY) * (b.square().sum(-1) + _TINY)
    cosine = (a * b).sum(-1) / squares.sqrt()
    short = (cosine - number(module, "margin", a)).clamp_min(0)
    loss = torch.where(y == 1, 1 - cosine, 0) + torch.where(y == -1, short, 0)
    return _result(module, loss, x1)


@numeric(nn.MarginRankingLoss, margin=any_number)
def margin_ranking(module: Any, x1: Tensor, x2: Tensor, y: Tensor) -> Tensor:
    if not x1.dim() == x2.dim() == y.dim():
        F.margin_ranking_loss(x1.detach(), x2.detach(), y)  # as the layer alone says it
    a, b = _given(module, x1, x2)
    return _result(module, (-y * (a - b) + number(module, "margin", a)).clamp_min(0), x1)


@numeric(nn.MultiMarginLoss, margin=any_number)
def multi_margin(module: Any, x: Tensor, y: Tensor) -> Tensor:
    (a,) = _given(module, x)
    a_BC = a if a.dim() == 2 else a.unsqueeze(0)
    y_B1 = y.reshape(-1, 1)
    gap_BC = (number(module, "margin", a) - a_BC.gather(1, y_B1) + a_BC).relu()
    gap_BC = gap_BC if module.p == 1 else gap_BC * gap_BC
    if module.weight is not None:
        gap_BC = gap_BC * module.weight[y_B1]
    own_BC = torch.arange(a_BC.shape[1], device=a.device) == y_B1
    loss_B = gap_BC.masked_fill(own_BC, 0).sum(1) / a_BC.shape[1]
    return _result(module, loss_B if y.dim() else loss_B.squeeze(0), x)


@numeric(nn.TripletMarginLoss, margin=signed, eps=any_number)
def triplet_margin(module: Any, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    a, p, n = _given(module, anchor, positive, negative)
    eps = number(module, "eps", a)
    near, far = _distance(a, p, module.p, eps), _distance(a, n, module.p, eps)
    if module.swap:
        far = torch.minimum(far, _distance(p, n, module.p, eps))
    return _result(module, (number(module, "margin", a) + near - far).clamp_min(0), anchor)


def _distance(a: Tensor, b: Tensor, p: float, eps: Any) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(a - b + eps, p, dim=-1)
    return distance


@numeric(nn.PairwiseDistance, eps=any_number)
def pairwise_distance(module: Any, x1: Tensor, x2: Tensor) -> Tensor:
    a, b = _given(module, x1, x2)
    away = a - b + number(module, "eps", a)
    distance: Tensor = torch.linalg.vector_norm(away, module.norm, -1, keepdim=module.keepdim)
    return distance.to(x1.dtype)


@numeric(nn.CosineSimilarity, eps=not_negative)
def cosine_similarity(module: Any, x1: Tensor, x2: Tensor) -> Tensor:
    a, b = torch.broadcast_tensors(*_given(module, x1, x2))
    parts = []
    for each in (a, b):
        norm = torch.linalg.vector_norm(each, dim=module.dim, keepdim=True).clone()
        _raise_to(norm, number(module, "eps", a))
        parts.append(each / norm)
    cosine: Tensor = (parts[0] * parts[1]).sum(module.dim)
    return cosine.to(x1.dtype)


def _raise_to(x: Tensor, least: Any) -> None:
    """Numbers below ``least`` become it; the gradient passes as if they had not."""
    with torch.no_grad():
        x.copy_(torch.maximum(x, torch.as_tensor(least, dtype=x.dtype, device=x.device)))


@numeric(nn.PoissonNLLLoss, eps=any_number)
def poisson_nll(module: Any, x: Tensor, y: Tensor) -> Tensor:
    a, b = _given(module, x, y)
    if module.log_input:
        loss = a.exp() - b * a
    else:
        loss = a - b * (a + number(module, "eps", a)).log()
    if module.full:
        stirling = b * b.log() - b + 0.5 * (2 * math.pi * b).log()
        loss = loss + stirling.masked_fill(b <= 1, 0)
    return _result(module, loss, x)


@numeric(nn.GaussianNLLLoss, eps=signed)
def gaussian_nll(module: Any, x: Tensor, y: Tensor, var: Tensor | float) -> Tensor:
    if not isinstance(var, Tensor):
        var = torch.full_like(x, var)
    a, b, variance = _given(module, x, y, refuse_negative(var, x))
    variance = variance.clone()
    _raise_to(variance, number(module, "eps", a))
    loss = 0.5 * (variance.log() + (a - b) ** 2 / variance)
    if module.full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _result(module, loss, x)


@numeric(nn.CrossEntropyLoss, label_smoothing=chance)
def cross_entropy(module: Any, x: Tensor, y: Tensor) -> Tensor:
    """Linear in the smoothing: between the losses without any and with nothing else."""
    refuse_autocast(module, x)

    def smoothed(by: float) -> Tensor:
        weight = None if module.weight is None else wide(module.weight)
        return F.cross_entropy(
            wide(x), wide(y) if y.is_floating_point() else y, weight=weight,
            ignore_index=module.ignore_index, reduction=module.reduction, label_smoothing=by,
        )  # fmt: skip

    assert isinstance(module.label_smoothing, PerMember)
    share = exact(module, "label_smoothing")
    dtype = wide(x).dtype
    # A class that cannot be, of a logit of minus infinity, counts where there is any smoothing.
    spread = torch.where(share == 0, 0, share.to(dtype) * smoothed(1.0))
    loss: Tensor = (1 - share).to(dtype) * smoothed(0.0) + spread
    return loss.to(x.dtype)
