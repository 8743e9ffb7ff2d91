import torch
from case import right, wrong
from torch import nn


@wrong()
class LogOfScores(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        return torch.log(self.fc(x))


@wrong()
class Spread(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        h = self.fc(x)
        return h / torch.sqrt(h.mean(-1, keepdim=True) ** 2 - (h**2).mean(-1, keepdim=True))


@wrong("batch", 6, 16)
class StrictlyEarlier(nn.Module):
    def __init__(self):
        super().__init__()
        self.qk, self.v = nn.Linear(16, 32), nn.Linear(16, 16)

    def forward(self, x):
        q, k = self.qk(x).chunk(2, -1)
        allowed = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).tril(-1)
        scores = (q @ k.mT / 4).masked_fill(~allowed, float("-inf"))
        return torch.softmax(scores, -1) @ self.v(x)


@right()
class Clamped(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        return torch.log(self.fc(x).clamp(min=1e-6)) + torch.log1p(x.abs().sum(-1, keepdim=True))


@right()
class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        h = self.fc(x)
        return h / torch.sqrt(h.var(-1, keepdim=True) + 1e-5)
