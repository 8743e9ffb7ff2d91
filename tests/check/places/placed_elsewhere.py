"""Functions that make layers for the networks beside this file."""

from torch import nn


def conv(a, b):
    return nn.Sequential(
        nn.Conv2d(a, b, 3),  # Factory: a.0 b.0
        nn.BatchNorm2d(b),
        nn.ReLU(),
    )


def frozen_head(n):
    layer = nn.Linear(4, n)  # Factory: head
    return layer.requires_grad_(False)


def either(wide):
    if wide:
        return nn.Linear(4, 8)
    return nn.Linear(4, 4)
