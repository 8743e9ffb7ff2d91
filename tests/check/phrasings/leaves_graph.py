import numpy as np
import torch
from case import right, wrong
from torch import nn


@wrong()
class ByData(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(20, 8)

    def forward(self, x):
        return self.a(x) * torch.sigmoid(self.b(x).data)


@wrong()
class ByNumpy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.a(x)
        order = np.sort(h.detach().cpu().numpy(), axis=1)
        return self.b(h + torch.from_numpy(order))


@wrong()
class ByItem(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        h = self.fc(x)
        largest = h.abs().max().item()
        return h / largest


@right()
class Statistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        h = self.fc(x)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(h.data.mean(0), 0.1)
        return h - self.mean


@right()
class StopGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(20, 8), nn.Linear(8, 8)

    def forward(self, x):
        h = self.fc(x)
        return self.head(h) - h.detach()
