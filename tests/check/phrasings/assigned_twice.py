import torch
from case import right, wrong
from torch import nn


@wrong()
class CopiedLine(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(20, 20)
        self.act = nn.ReLU()
        self.fc1 = nn.Linear(20, 10)

    def forward(self, x):
        return self.act(self.fc1(x))


@wrong()
class LoopOverOneName(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        for _ in range(depth):
            self.hidden = nn.Linear(20, 20)
        self.out = nn.Linear(20, 2)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))


@wrong()
class AddedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("first", nn.Linear(20, 30))
        self.add_module("second", nn.Linear(30, 20))
        self.add_module("first", nn.Linear(20, 30))

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(20, 32), nn.Linear(32, 1000)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


@right()
class NewHead(Base):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(self.head.in_features, 3)


@right()
class ChosenActivation(nn.Module):
    def __init__(self, name="gelu"):
        super().__init__()
        self.layer = nn.Linear(20, 20)
        self.act = nn.ReLU()
        if name == "gelu":
            self.act = nn.GELU()

    def forward(self, x):
        return self.act(self.layer(x))
