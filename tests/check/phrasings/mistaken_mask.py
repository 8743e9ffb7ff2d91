import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong("batch", 6, 16)
class Inverted(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.register_buffer("mask", torch.tril(torch.ones(6, 6)))

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-2, -1) / 4
        scores = scores.masked_fill(self.mask == 1, float("-inf"))
        return torch.softmax(scores, dim=-1) @ self.v(x)


@wrong("batch", 6, 16)
class BehindTheSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.qk, self.v = nn.Linear(16, 32), nn.Linear(16, 16)

    def forward(self, x):
        q, k = self.qk(x).chunk(2, -1)
        weights = F.softmax(q @ k.mT / 4, dim=-1)
        later = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).triu(1)
        weights = weights.masked_fill(later, -1e9)
        return weights @ self.v(x)


@wrong("batch", 6, 16)
class MaskOfTheOtherKind(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        length = x.shape[1]
        mask = torch.triu(torch.ones(length, length, device=x.device), diagonal=1).bool()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@right("batch", 6, 16)
class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.register_buffer("mask", torch.tril(torch.ones(6, 6)))

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-2, -1) / 4
        weights = torch.softmax(scores.masked_fill(self.mask == 0, float("-inf")), dim=-1)
        return weights.masked_fill(self.mask == 0, 0.0) @ self.v(x)


@right("batch", 6, 16)
class OfTorch(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        later = torch.ones(6, 6, device=x.device).triu(1).bool()
        x, _ = self.attention(x, x, x, attn_mask=later, need_weights=False)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=~later)
