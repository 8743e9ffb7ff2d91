"""Scaled dot-product attention with a member axis: the members' sequences as one batch.

Shapes: N members, B sequences of one member, H heads, L queries, S keys, E features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from chimera.stack.rules.functions import replaces
from chimera.stack.rules.opened import calling
from chimera.stack.rules.together import is_together, together


@replaces(F.scaled_dot_product_attention)
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``F.scaled_dot_product_attention``; with dropout torch batches it by itself."""
    if dropout_p > 0 or enable_gqa or not is_together(query, key, value, attn_mask):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    found: Tensor = together(_attention, query, key, value, attn_mask, is_causal, scale)
    return found


# It calls the function above by its name. Where autocast is on it is opened instead.
multi_head_attention = replaces(F.multi_head_attention_forward)(
    calling(
        F.multi_head_attention_forward,
        scaled_dot_product_attention=scaled_dot_product_attention,
    )
)


def _attention(
    size: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    shapes = [tensor.shape[1:-2] for tensor in (query, key, value)]
    batch = torch.broadcast_shapes(*shapes)
    q, k, v = (_as_images(tensor, size, batch) for tensor in (query, key, value))
    if mask is not None:
        mask = _as_images(mask, size, batch)
    out_NHLE = F.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale=scale)
    return out_NHLE.reshape(size, *batch, *out_NHLE.shape[-2:])


def _as_images(tensor: Tensor, size: int, batch: torch.Size) -> Tensor:
    """``[N B, H, rows, columns]``, of what has fewer axes of a batch or shares some."""
    own, last = tensor.shape[1:-2], tensor.shape[-2:]
    missing = [1] * (len(batch) - len(own))
    tensor = tensor.reshape(size, *missing, *own, *last).expand(size, *batch, *last)
    heads = batch[-1] if batch else 1
    return tensor.reshape(size * math.prod(batch[:-1]), heads, *last)
