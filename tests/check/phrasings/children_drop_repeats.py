from functools import reduce

from case import right, wrong
from torch import nn


@wrong()
class SharedActivation(nn.Module):
    def __init__(self):
        super().__init__()
        act = nn.Tanh()
        self.a, self.act_a = nn.Linear(20, 20), act
        self.b, self.act_b = nn.Linear(20, 20), act

    def forward(self, x):
        for _, layer in self.named_children():
            x = layer(x)
        return x


@wrong()
class Reduced(nn.Module):
    def __init__(self):
        super().__init__()
        block = nn.Sequential(nn.Linear(20, 20), nn.ReLU())
        self.one = block
        self.two = block
        self.out = nn.Linear(20, 3)

    def forward(self, x):
        return reduce(lambda h, layer: layer(h), self.children(), x)


@wrong()
class Rewrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(20, 20)
        self.again = self.first

    def forward(self, x):
        return nn.Sequential(*self.children())(x)


@right()
class Distinct(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


@right()
class ListWithRepeats(nn.Module):
    def __init__(self):
        super().__init__()
        act = nn.ReLU()
        self.layers = nn.ModuleList([nn.Linear(20, 20), act, nn.Linear(20, 20), act])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
