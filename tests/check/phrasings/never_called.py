import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F

import chimera as ch


@wrong()
class ForgottenNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(20, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


@wrong()
class WrongNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20)

    def forward(self, x):
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x))
        return self.fc2(x)


@wrong()
class OffByOne(nn.Module):
    def __init__(self, depth=4):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(20, 20) for _ in range(depth))

    def forward(self, x):
        for i in range(len(self.blocks) - 1):
            x = torch.tanh(self.blocks[i](x))
        return x


@right()
class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(20, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.relu(self.body(x))
        if self.training:
            return self.head(h), self.auxiliary(h)
        return self.head(h)


@right(ch.spec("batch", 6, dtype=torch.int64))
class WeightAlone(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.body, self.out = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 50)

    def forward(self, words):
        h = torch.relu(self.body(self.embed(words)))
        return F.linear(h, self.out.weight)[:, -1] + self.out.bias
