import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong("batch", 1, 28, 28)
class ForgottenFlatten(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4 * 26 * 26, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)))


@wrong("batch", 1, 28, 28)
class MiscountedPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc = nn.Linear(16 * 5 * 5, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.view(-1, 16 * 5 * 5))


@wrong("batch", 12)
class FloatIndices(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(100, 8), nn.Linear(8, 2)

    def forward(self, words):
        return self.out(self.embed(words).mean(1))


@right("batch", 1, 28, 28)
def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))


@right()
class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 20)

    def forward(self, x):
        x = self.fc(x)
        while x.abs().sum() > 1:
            x = x / 2
        return x.sum()
