import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F

import chimera as ch


@wrong("batch", 3, 8, 8)
class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.b1 = nn.Conv2d(3, 4, 1)
        self.b2 = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.b3 = nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, x):
        one = F.relu(self.b1(x))
        two = F.relu(self.b2(x))
        three = F.relu(self.b3(x))
        return torch.cat([one, two, three], dim=1)


@wrong()
class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(20, 16)
        self.heads = nn.ModuleList(nn.Linear(16, 2) for _ in range(4))

    def forward(self, x):
        x = torch.relu(self.body(x))
        return torch.cat([head(x) for head in self.heads], dim=-1)


@wrong()
class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(20, 8), nn.GELU(), nn.Linear(8, 5)) for _ in range(3)]
        )
        self.gate = nn.Linear(20, 3)

    def forward(self, x):
        outs = []
        for expert in self.experts:
            outs.append(expert(x))
        outs = torch.stack(outs, dim=1)
        return (torch.softmax(self.gate(x), -1).unsqueeze(-1) * outs).sum(1)


@right(ch.spec("batch", 20), ch.spec("batch", 5))
class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(20, 8), nn.Linear(5, 8), nn.Linear(16, 2)

    def forward(self, x, y):
        return self.out(torch.cat([torch.relu(self.a(x)), torch.relu(self.b(y))], dim=1))


@right("batch", 3, 8, 8)
class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 2, 2), nn.ConvTranspose2d(6, 6, 2, 2)
        self.out = nn.Conv2d(9, 2, 1)

    def forward(self, x):
        return self.out(torch.cat([self.up(F.relu(self.down(x))), x], dim=1))
