import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
class Quantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        codes = torch.round(self.a(x) * 4) / 4
        return self.b(codes)


@wrong(loss=nn.NLLLoss())
class SoftmaxOfOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 8), nn.Linear(8, 1)

    def forward(self, x):
        return torch.softmax(self.fc2(torch.relu(self.fc1(x))), dim=1)


@wrong("batch", 6, 20)
class SingleKey(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(20, 8), nn.Linear(20, 8), nn.Linear(20, 8)

    def forward(self, x):
        context = x.mean(1, keepdim=True)
        weights = F.softmax(self.q(x) @ self.k(context).mT, dim=-1)
        return weights @ self.v(context)


@right()
class StraightThrough(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.a(x)
        return self.b(h + (h.round() - h).detach())


@right()
class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(8, 1)

    def forward(self, x):
        return torch.sigmoid(self.b(F.normalize(torch.softmax(self.a(x), -1), dim=-1)))
