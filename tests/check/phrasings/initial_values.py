import torch
from case import right, wrong
from torch import nn


@wrong()
class AllZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 8), nn.Linear(8, 2)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


@wrong()
class OneConstant(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 2))
        self.apply(self._start)

    @staticmethod
    def _start(module):
        if isinstance(module, nn.Linear):
            module.weight.data.fill_(0.01)

    def forward(self, x):
        return self.net(x)


@wrong()
class LogOfNegatives(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.randn(20).log())
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x * self.log_scale.exp())


@right()
class LoRA(nn.Module):
    def __init__(self, rank=2):
        super().__init__()
        self.base = nn.Linear(20, 8).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(20, rank) / 20)
        self.up = nn.Parameter(torch.zeros(rank, 8))

    def forward(self, x):
        return self.base(x) + x @ self.down @ self.up


@right()
class UsualStart(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(20, 8), nn.LayerNorm(8)
        nn.init.zeros_(self.fc.bias)
        self.gamma = nn.Parameter(1e-6 * torch.ones(8))

    def forward(self, x):
        h = self.fc(x)
        return h + self.gamma * torch.relu(self.norm(h))
