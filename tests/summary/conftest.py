"""Networks that the tests of summaries share."""

import pytest
import torch
from torch import nn

import chimera as ch


class Block(nn.Module):
    """A transformer's block, residual twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.mix = nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(self.norm(x))
        return x + self.mlp(x)


class Language(nn.Module):
    """Six blocks between two tied ends."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(40, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(6))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.tokens.weight
        self.norm.requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def branches() -> nn.Module:
    """Four branches side by side, one of them longer, in a chain of lazy layers."""
    return ch.Sequential(
        nn.LazyConv2d(8, 3, padding=1),
        nn.ReLU(),
        ch.Parallel(
            nn.LazyConv2d(4, 1),
            ch.Sequential(nn.LazyConv2d(2, 1), nn.ReLU(), nn.LazyConv2d(4, 3, padding=1)),
            ch.Sequential(nn.MaxPool2d(3, 1, 1), nn.LazyConv2d(4, 1)),
            nn.Identity(),
        ),
        ch.Residual(nn.LazyConv2d(20, 3, padding=1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


@pytest.fixture
def language() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Language()


@pytest.fixture
def branched() -> nn.Module:
    return ch.build(branches(), ch.spec(2, 3, 16, 16), seed=0)


TOKENS = ch.spec(2, 9, dtype=torch.int64)
