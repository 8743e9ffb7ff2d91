import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong("batch", 256)
class UnitNormal(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(6))
        for layer in self.layers:
            nn.init.normal_(layer.weight)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


def small(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=1e-3)
        nn.init.zeros_(module.bias)


@wrong("batch", 64)
def shrinking():
    layers = [part for _ in range(4) for part in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(*layers).apply(small)


@wrong("batch", 3, 32, 32)
class UnscaledPixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.ModuleList([nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3)])
        for conv in self.conv:
            nn.init.uniform_(conv.weight, -1, 1)

    def forward(self, x):
        for conv in self.conv:
            x = F.leaky_relu(conv(x * 4), 0.2)
        return x.mean((2, 3))


@right("batch", 64)
class ZeroResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


@right("batch", 64)
class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(64, 32)
        self.scale = nn.Parameter(torch.tensor(4.6))

    def forward(self, x):
        return F.normalize(self.embed(x), dim=-1) * self.scale.exp()
