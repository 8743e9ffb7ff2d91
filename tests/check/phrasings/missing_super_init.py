from itertools import pairwise

import torch
from case import right, wrong
from torch import nn


@wrong()
class NoCall(nn.Module):
    def __init__(self, width=8):
        self.fc = nn.Linear(20, width)

    def forward(self, x):
        return self.fc(x)


@wrong()
class AtTheEnd(nn.Module):
    def __init__(self):
        self.layers = nn.Sequential(nn.Linear(20, 8), nn.ReLU())
        self.out = nn.Linear(8, 2)
        super().__init__()

    def forward(self, x):
        return self.out(self.layers(x))


@wrong()
class WithoutParentheses(nn.Module):
    def __init__(self):
        super().__init__
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x)


@right()
class ByTheClass(nn.Module):
    def __init__(self):
        nn.Module.__init__(self)
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x)


@right()
class NumbersBefore(nn.Module):
    def __init__(self, width=8):
        self.width = width
        sizes = [20, width, 2]
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x):
        return self.layers[1](torch.relu(self.layers[0](x)))
