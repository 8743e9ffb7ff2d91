import torch
from case import right, wrong
from torch import nn

import chimera as ch


@wrong()
class AddsAMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 1)

    def forward(self, x):
        return self.fc(x) + x.mean(dim=1)


@wrong(ch.spec("batch", 20), ch.spec("batch", 20))
class WeightedDistance(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Linear(20, 1)

    def forward(self, a, b):
        distance = (a - b).pow(2).sum(-1).sqrt()
        return (torch.sigmoid(self.weight(a)) * distance).mean(dim=-1)


@wrong()
class Chosen(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.value = nn.Linear(20, 1), nn.Linear(20, 1)

    def forward(self, x):
        value = self.value(x).squeeze(-1)
        return torch.where(self.gate(x) > 0, value, torch.zeros_like(value))


@right()
class KeptAxis(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 1)

    def forward(self, x):
        return self.fc(x) + x.mean(dim=1, keepdim=True)


@right()
class PairwiseMargins(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(20, 1)

    def forward(self, x):
        score = self.score(x).squeeze(-1)
        return torch.relu(1 - (score.unsqueeze(1) - score.unsqueeze(0))).mean(1)
