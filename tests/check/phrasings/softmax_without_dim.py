import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong("batch", 6, 20)
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        return F.softmax(self.fc(x))


@wrong()
def as_a_module():
    return nn.Sequential(nn.Linear(20, 5), nn.Softmax())


@wrong()
class Log(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.last = nn.Linear(20, 5), nn.LogSoftmax()

    def forward(self, x):
        return self.last(self.fc(x))


@right("batch", 3, 8, 8)
class OverChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Softmax2d()

    def forward(self, x):
        return self.last(self.conv(x))


@right()
class Method(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        return self.fc(x).softmax(-1) + torch.log_softmax(self.fc(x), 1)
