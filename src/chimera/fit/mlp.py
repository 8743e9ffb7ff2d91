"""A ready network: the multilayer perceptron."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A multilayer perceptron: ``depth`` hidden layers of ReLUs, then a linear layer.

    Args:
        features: how many numbers one sample holds; all but its batch axis are flattened.
        outputs: how many numbers come out for one sample.
        hidden: the width of each hidden layer.
        depth: how many hidden layers; 0 makes a linear model.
        dropout: the probability with which a hidden unit is dropped while training.

    Takes [batch, ...] and returns [batch, outputs]; whole numbers, such as pixels, become floats.

    Raises:
        TypeError: an argument is no number, or a count is not whole.
        ValueError: a width below 1, a negative depth, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        hidden: int = 64,
        depth: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, count, least in (
            ("features", features, 1),
            ("outputs", outputs, 1),
            ("hidden", hidden, 1),
            ("depth", depth, 0),
        ):
            if isinstance(count, bool) or not isinstance(count, int):
                raise TypeError(f"MLP: {name} must be a whole number, got {count!r}")
            if count < least:
                raise ValueError(f"MLP: {name} must be at least {least}, got {count}")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)):
            raise TypeError(f"MLP: dropout must be a number, got {dropout!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"MLP: dropout must be in [0, 1), got {dropout!r}")
        self.features = features
        widths = [features] + [hidden] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if not x.is_floating_point():
            x = x.to(self.out.weight.dtype)
        for layer in self.hidden:
            x = self.dropout(torch.relu(layer(x)))
        scores: Tensor = self.out(x)
        return scores
