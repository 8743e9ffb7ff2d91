"""Cross-entropy with a member axis, on a CPU.

torch's softmax over a last axis of fewer than 16 numbers is slow there: over the axis before the
last, with the rows side by side, the same numbers take a tenth of the time
(``benchmarks/softmax.py``).

Shapes: N members, B rows of one member, C classes; x_NBC, y_NB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.table import rule
from chimera.stack.rules.together import is_together, together

FEW = 15
IGNORED = -100


def stacked_loss(loss: Callable[..., Any]) -> Callable[..., Any]:
    """``loss``, or what computes the same faster for all members inside vmap."""
    if loss is F.cross_entropy or (isinstance(loss, nn.CrossEntropyLoss) and _is_plain(loss)):
        return _cross_entropy
    return loss


def _is_plain(loss: nn.CrossEntropyLoss) -> bool:
    hooks = [*loss._forward_hooks, *loss._forward_pre_hooks, *loss._backward_hooks]
    return (
        type(loss) is nn.CrossEntropyLoss
        and loss.weight is None
        and loss.ignore_index == IGNORED
        and loss.label_smoothing == 0
        and loss.reduction == "mean"
        and not hooks
    )


@rule(nn.CrossEntropyLoss, "batched cross-entropy")
def cross_entropy_loss(module: nn.CrossEntropyLoss, x: Tensor, y: Tensor) -> Tensor:
    """``CrossEntropyLoss.forward`` for all members."""
    if _is_plain(module):
        return _cross_entropy(x, y)
    return F.cross_entropy(
        x,
        y,
        weight=module.weight,
        ignore_index=module.ignore_index,
        reduction=module.reduction,
        label_smoothing=module.label_smoothing,
    )


def _cross_entropy(x: Any, y: Any, **options: Any) -> Tensor:
    if options or not (is_together(x, y) and _fits(x, y)):
        return F.cross_entropy(x, y, **options)
    loss: Tensor = together(_mean, x, y)
    return loss


def _mean(size: int, x_NBC: Tensor, y_NB: Tensor) -> Tensor:
    loss: Tensor = _Mean.apply(x_NBC, y_NB)  # type: ignore[no-untyped-call]
    return loss


def _fits(x: Any, y: Any) -> bool:
    return (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and x.dim() == 2
        and y.dim() == 1
        and len(x) == len(y) > 0
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and y.dtype is torch.int64
        and x.shape[1] > 0
    )


class _Mean(torch.autograd.Function):
    """Every member's mean cross-entropy; rows whose target is ``IGNORED`` do not count."""

    @staticmethod
    def forward(ctx: Any, x_NBC: Tensor, y_NB: Tensor) -> Tensor:
        counted = y_NB != IGNORED
        few = x_NBC.shape[-1] <= FEW
        axis = 1 if few else 2
        # An index out of range would read a neighbour's numbers: gather refuses it.
        index = torch.where(counted, y_NB, 0).unsqueeze(axis)
        logs = torch.log_softmax(x_NBC.transpose(1, 2) if few else x_NBC, axis)
        weight_NB = counted / counted.sum(1, keepdim=True)
        ctx.save_for_backward(logs, index, weight_NB)
        ctx.axis = axis
        picked = logs.gather(axis, index).squeeze(axis)
        return -(picked * weight_NB.to(picked.dtype)).sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        logs, index, weight_NB = ctx.saved_tensors
        grad = logs.exp()
        one = torch.ones((), dtype=grad.dtype).expand(index.shape)
        grad.scatter_add_(ctx.axis, index, -one)
        grad *= (g.unsqueeze(1) * weight_NB.to(grad.dtype)).unsqueeze(ctx.axis)
        return grad.transpose(1, 2) if ctx.axis == 1 else grad, None
