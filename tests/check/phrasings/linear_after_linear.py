import torch
from case import right, wrong
from torch import nn


@wrong()
def nothing_between():
    return nn.Sequential(nn.Linear(20, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@wrong()
class DropoutBetween(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.drop, self.fc2 = nn.Linear(20, 32), nn.Dropout(0.5), nn.Linear(32, 10)

    def forward(self, x):
        x = self.fc1(x)
        x = self.drop(x)
        return self.fc2(x)


@wrong("batch", 1, 8, 8)
class HeadOnAProjection(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 64)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        features = self.encoder(x)
        return self.head(features.view(features.size(0), -1))


@right()
class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(20, 2, bias=False), nn.Linear(2, 20)

    def forward(self, x):
        return self.up(self.down(x))


@right("batch", 5, 20)
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20)
        self.out = nn.Linear(20, 20)

    def forward(self, x):
        weights = torch.softmax(self.q(x) @ self.k(x).mT / 20**0.5, dim=-1)
        return self.out(weights @ self.v(x))
