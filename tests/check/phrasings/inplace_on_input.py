import torch
from case import right, wrong
from torch import nn


@wrong()
class ZeroedColumn(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        x[:, 0] = 0
        return self.fc(x)


@wrong()
class Centered(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, batch):
        features = batch
        features -= features.mean(dim=1, keepdim=True)
        return self.fc(features)


@wrong("batch", 4, 5)
class ThroughAView(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        flat = x.view(x.size(0), -1)
        flat.clamp_(-1, 1)
        return self.fc(flat)


@right()
class Copied(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        x = x.clone()
        x[:, 0] = 0
        x += 1
        return self.fc(x)


@right()
class OwnResult(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bias = nn.Linear(20, 2), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        x = x * 2
        x *= 0.5
        x = self.fc(x)
        x += self.bias
        return x
