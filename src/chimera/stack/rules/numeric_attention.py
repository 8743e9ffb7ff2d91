"""Attention whose dropout differs between members.

``MultiheadAttention.forward`` runs as it is, but for the two functions of torch that drop weights:
each member draws what it draws alone and compares with its own probability.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chimera.stack.rules.numeric import PerMember, chance, numeric, refuse_autocast, wide
from chimera.stack.rules.numeric_dropout import kept, staying_share
from chimera.stack.rules.opened import opened

_BETWEEN = 0.5  # for the code that asks whether there is any dropout


@numeric(nn.MultiheadAttention, dropout=chance)
def attention(module: Any, query: Tensor, *others: Any, **named: Any) -> Any:
    refuse_autocast(module, query)
    own = module.__dict__["dropout"]
    module.dropout = _BETWEEN
    try:
        with _OwnDropout(own):
            return type(module).forward(module, query, *others, **named)
    finally:
        module.__dict__["dropout"] = own


class _OwnDropout(TorchFunctionMode):
    """Drops with a member's own probability.

    Args:
        p: the probability.
    """

    def __init__(self, p: PerMember) -> None:
        super().__init__()
        self._p = p

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            inside = opened(func)
            assert inside is not None
            with self:
                return inside(*args, **kwargs)
        if func is F.dropout:
            return self._dropped(args[0])
        if func is F.scaled_dot_product_attention and self._drops(args):
            return self._attention(*args)
        return func(*args, **kwargs)

    @staticmethod
    def _drops(args: tuple[Any, ...]) -> bool:
        return len(args) > 4 and args[4] > 0

    def _dropped(self, weights: Tensor) -> Tensor:
        p = self._p
        scale = kept(p, weights.shape, weights.device).to(wide(weights).dtype)
        scale = scale / staying_share(p.tensor).to(scale.dtype)
        return (wide(weights) * scale).to(weights.dtype)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        _: float,
        is_causal: bool = False,
    ) -> Tensor:
        """Scaled dot products (Vaswani et al. 2017, arXiv:1706.03762, equation 1)."""
        scale = 1 / math.sqrt(query.shape[-1])
        scores = torch.matmul(query * scale, key.transpose(-2, -1))
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        if mask is not None:
            low = torch.full_like(scores, float("-inf"))
            scores = torch.where(mask, scores, low) if mask.dtype is torch.bool else scores + mask
        return torch.matmul(self._dropped(scores.softmax(-1)), value)
