import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
def in_a_sequential():
    return nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))


class ConvBlock(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, padding=1)
        self.bn = nn.BatchNorm2d(o)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


@wrong("batch", 3, 8, 8)
class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([ConvBlock(3, 4), ConvBlock(4, 4)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


@wrong("batch", 3, 8, 8)
class Upsampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 6, 2, stride=2)
        self.norm = nn.InstanceNorm2d(6)

    def forward(self, x):
        return torch.tanh(self.norm(self.up(x)))


@right()
def without_a_bias():
    return nn.Sequential(nn.Linear(20, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU())


@right()
def an_activation_between():
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 3))
