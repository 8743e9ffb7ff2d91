"""Losses of probabilities with a member axis: Kullback-Leibler, Gaussian likelihood, CTC.

Shapes: T steps, B rows of one member, C classes, S symbols of a target.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.functions import (
    Unstackable,
    fold_members,
    reduced,
    refuse_legacy,
    refuse_where,
    replaces,
)
from chimera.stack.rules.table import rule


@replaces(F.kl_div)
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """``F.kl_div``."""
    refuse_legacy(size_average, reduce)
    if log_target:
        loss = target.exp() * (target - input)
    else:
        loss = torch.xlogy(target, target) - target * input
    if reduction == "batchmean":
        return loss.sum() / input.shape[0] if input.dim() else loss.sum()
    return reduced(loss, reduction)


@rule(nn.KLDivLoss, "divergence of all members")
def _kl_div(module: Any, input: Tensor, target: Tensor) -> Tensor:
    return kl_div(input, target, reduction=module.reduction, log_target=module.log_target)


@replaces(F.gaussian_nll_loss)
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """``F.gaussian_nll_loss``; a negative variance of any member is refused."""
    if not isinstance(var, Tensor):
        var = torch.full_like(input, var)
    var = refuse_negative(var, input).clone()
    with torch.no_grad():  # the gradient passes where the variance is raised to eps, too
        var.copy_(var.clamp(min=eps))
    loss = 0.5 * (torch.log(var) + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduced(loss, reduction)


def refuse_negative(var: Tensor, input: Tensor) -> Tensor:
    """A variance that is to go with an input, checked as ``F.gaussian_nll_loss`` does.

    Raises:
        ValueError: a variance of any member is negative, or the shapes do not go together.
    """
    refuse_where(var < 0, "var has negative entry/entries")
    if var.shape != input.shape:
        apart = [b for a, b in zip(input.shape, var.shape, strict=False) if a != b]
        if input.shape[:-1] == var.shape:
            var = var.unsqueeze(-1)
        elif input.dim() != var.dim() or apart != [1]:
            raise ValueError("var is of incorrect size")
    return var


@rule(nn.GaussianNLLLoss, "likelihood of all members")
def _gaussian_nll(module: Any, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
    return gaussian_nll_loss(
        input, target, var, full=module.full, eps=module.eps, reduction=module.reduction
    )


@replaces(F.ctc_loss)
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """``F.ctc_loss``: the rows of all members as one batch."""
    several = log_probs.dim() == 3
    probs_TBC = log_probs if several else log_probs.unsqueeze(1)
    if several and targets.dim() == 1:
        raise Unstackable("ctc_loss with targets laid end to end runs one by one")
    targets_BS = targets if several else targets.reshape(1, -1)
    inputs_B, targets_B = (
        (lengths if isinstance(lengths, Tensor) else torch.tensor(lengths)).reshape(-1)
        for lengths in (input_lengths, target_lengths)
    )

    def every_row(probs: Tensor, symbols: Tensor, ends: Tensor, sizes: Tensor) -> tuple[Tensor]:
        steps_first = probs.transpose(0, 1)
        loss = torch.ctc_loss(steps_first, symbols, ends, sizes, blank, 0, zero_infinity)
        return (loss,)

    (loss_B,) = fold_members(
        every_row, probs_TBC.transpose(0, 1), targets_BS, inputs_B, targets_B, batched=True
    )
    if reduction == "mean":
        loss_B = loss_B / targets_B.clamp_min(1).to(loss_B)
    return reduced(loss_B if several else loss_B.squeeze(0), reduction)


@rule(nn.CTCLoss, "rows of all members")
def _ctc(
    module: Any, log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any
) -> Tensor:
    return ctc_loss(
        log_probs,
        targets,
        input_lengths,
        target_lengths,
        module.blank,
        module.reduction,
        module.zero_infinity,
    )
