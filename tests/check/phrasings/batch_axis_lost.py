import torch
from case import right, wrong
from torch import nn


@wrong("batch", 3, 16, 16)
class SqueezedPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.pool(self.conv(x)).squeeze())


@wrong()
class JoinedBatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.fc = nn.Linear(20, 8), nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        both = torch.cat((torch.tanh(self.left(x)), torch.tanh(self.right(x))))
        return self.fc(both)


@wrong("batch", 7, 5)
class LastSampleForLastStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 8, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        out, _ = self.rnn(x)
        return self.fc(out[-1])


@right("batch", 3, 16, 16)
class PooledOverSpace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 1)

    def forward(self, x):
        return self.fc(self.conv(x).mean(dim=(2, 3))).squeeze(-1)


@right("batch", 7, 5)
class LastLayerState(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 8, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        _, h = self.rnn(x)
        return self.fc(torch.cat([h[-1], x[:, 0, :3], x[:, 1]], dim=-1)[:, :8])
