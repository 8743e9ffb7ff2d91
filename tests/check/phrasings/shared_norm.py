import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F

import chimera as ch


@wrong("batch", 4, 8, 8)
class OneForTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        x = F.relu(self.bn(self.conv1(x)))
        return F.relu(self.bn(self.conv2(x)))


@wrong()
class InALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20, 20, bias=False) for _ in range(3))
        self.norm = nn.BatchNorm1d(20)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(self.norm(layer(x)))
        return x


@wrong()
def in_a_sequential():
    norm = nn.BatchNorm1d(20)
    return nn.Sequential(nn.Linear(20, 20), norm, nn.ReLU(), nn.Linear(20, 20), norm, nn.ReLU())


@right()
class LayerNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(20, 20), nn.Linear(20, 20), nn.LayerNorm(20)

    def forward(self, x):
        return self.norm(self.b(torch.relu(self.norm(self.a(x)))))


@right(ch.spec("batch", 20), ch.spec("batch", 20))
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())

    def forward(self, a, b):
        return F.cosine_similarity(self.encoder(a), self.encoder(b))
