from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong("batch", 4, 8, 8)
class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        out = self.relu(x)
        out = self.conv(out)
        return out + x


@wrong()
class SequentialBranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(20, 20)
        self.branch = nn.Sequential(nn.SiLU(inplace=True), nn.Linear(20, 20))

    def forward(self, x):
        x = self.stem(x)
        return x + self.branch(x)


@wrong()
class Underscored(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20)

    def forward(self, x):
        x = self.stem(x)
        skip = x
        x = self.a(x.relu_())
        x = self.b(F.relu(x))
        return skip + x


@right()
class InsideTheBranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(20, 20), nn.ReLU(inplace=True), nn.Linear(20, 20))

    def forward(self, x):
        return x + self.branch(x)


@right()
class NoSum(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.out = nn.Linear(20, 20), nn.Linear(20, 20)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.out(self.act(self.stem(x))))
