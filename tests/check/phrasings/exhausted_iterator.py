import torch
from case import right, wrong
from torch import nn


@wrong()
class Generated(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))
        self.active = (layer for layer in self.layers if layer.out_features == 20)

    def forward(self, x):
        for layer in self.active:
            x = torch.relu(layer(x))
        return x


@wrong()
class Zipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(20) for _ in range(3))
        self.pairs = zip(self.layers, self.norms, strict=True)

    def forward(self, x):
        for layer, norm in self.pairs:
            x = norm(torch.relu(layer(x)))
        return x


@wrong()
class Backwards(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Linear(20, 20), nn.Linear(20, 20)])
        self.order = reversed(self.stages)

    def forward(self, x):
        for stage in self.order:
            x = torch.tanh(stage(x))
        return x


@right()
class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))
        self.scales = list(map(float, range(1, 4)))

    def forward(self, x):
        for layer, scale in zip(self.layers, self.scales, strict=True):
            x = torch.relu(layer(x)) * scale
        return x


@right()
class RangeOfSteps(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = range(3)
        self.fc = nn.Linear(20, 20)

    def forward(self, x):
        for _ in self.steps:
            x = torch.tanh(self.fc(x))
        return x
