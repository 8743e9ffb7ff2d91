"""Networks whose layers are made in many ways. A comment names the paths that are made on its line,
for the network that the comment begins with."""

from collections import OrderedDict

import torch
from placed_elsewhere import conv, either, frozen_head
from torch import nn

import chimera as ch


class Lines(nn.Module):  # Lines: root
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(  # Lines: net
            nn.Linear(4, 4),  # Lines: net.0
            nn.Linear(  # Lines: net.1
                4,
                4,
            ),
            nn.ReLU(),  # Lines: net.2
        )
        self.a, self.b = (
            nn.Linear(4, 4),  # Lines: a
            nn.Dropout(),  # Lines: b
        )
        self.old: nn.Module = nn.utils.weight_norm(nn.Linear(4, 4))  # Lines: old

    def forward(self, x):
        return self.old(self.b(self.a(self.net(x))))


class Comprehended(nn.Module):  # Comprehended: root
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *[nn.Linear(4, 4) for _ in range(2)],  # Comprehended: net.0 net.1
            nn.LeakyReLU(),  # Comprehended: net.2
        )
        self.list = nn.ModuleList(
            nn.Linear(4, 4)  # Comprehended: list.0 list.1
            for _ in range(2)
        )
        self.pairs = nn.ModuleList(
            [nn.Linear(4, 4), nn.Tanh()] * 2  # Comprehended: pairs.0 pairs.2 pairs.3
        )

    def forward(self, x):
        return self.net(x)


class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Linear(4, 4)]  # Looped: net.0
        for _ in range(2):
            layers.append(
                nn.Linear(4, 4)  # Looped: net.1 net.3
            )
            layers += [nn.ReLU()]  # Looped: net.2 net.4
        self.net = nn.Sequential(*layers)  # Looped: net
        self.list = nn.ModuleList()
        for _ in range(2):
            self.list.append(
                nn.Sequential(
                    nn.Linear(4, 4),  # Looped: list.0.0 list.1.0
                    nn.BatchNorm1d(4),  # Looped: list.0.1
                )
            )
        self.named = nn.ModuleDict()
        self.named["first"] = nn.Linear(4, 4)  # Looped: named.first
        for name in ("a", "b"):
            self.named[name] = nn.Linear(4, 4)  # Looped: named.a named.b

    def forward(self, x):
        return self.net(x)


class Factory(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = conv(3, 4)
        self.b = conv(4, 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = frozen_head(4)
        self.either = either(False)  # Factory: either

    def forward(self, x):
        return self.either(self.head(self.pool(self.b(self.a(x))).flatten(1)))


class ByMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = self._make(4, 2)
        self.layer2 = self._make(4, 3)

    def _make(self, width, depth):
        layers = [nn.Linear(width, width)]  # ByMethod: layer1.0 layer2.0
        for _ in range(1, depth):
            layers.append(nn.Linear(width, width))  # ByMethod: layer1.1 layer2.2
        return nn.Sequential(*layers)  # ByMethod: layer1

    def forward(self, x):
        return self.layer2(self.layer1(x))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            OrderedDict(
                [
                    ("fc", nn.Linear(4, 4)),  # Named: net.fc
                    ("out", nn.Linear(4, 4)),  # Named: net.out
                ]
            )
        )
        self.both = nn.ModuleDict(
            {
                "a": nn.Linear(4, 4),  # Named: both.a
                "b": nn.Tanh(),  # Named: both.b
            }
        )
        for i in range(2):
            setattr(self, f"fc{i}", nn.Linear(4, 4))  # Named: fc0 fc1
        self.add_module("last", nn.Linear(4, 4))  # Named: last

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.a = nn.Linear(width, width)  # Nested: blocks.1.a repeat.1.a lazily.a

    def forward(self, x):
        return torch.relu(self.a(x))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(4) for _ in range(2)])  # Nested: blocks.0
        self.repeat = ch.Repeat(Block, 2, 4)  # Nested: repeat
        make = Block
        self.lazily = make(4)  # Nested: lazily
        self.head = nn.LazyLinear(4)  # Nested: head

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.lazily(self.repeat(x)))


class Bare(Block):  # Bare: root
    """No method of its own."""

    kinds = ("bare",)


class Unknown(nn.Module):
    def __init__(self, deep=False):
        super().__init__()
        if deep:
            self.twice = nn.Linear(4, 4)
        else:
            self.twice = nn.Linear(4, 4)
        if deep:
            self.told_apart = nn.Linear(4, 4)
        else:
            self.told_apart = nn.Identity()  # Unknown: told_apart

    def forward(self, x):
        return self.told_apart(self.twice(x))


def made():
    net = Looped()
    net.net[0] = nn.Linear(4, 4)
    net.head = nn.Linear(4, 4)  # made: head
    return net


def chain():
    return nn.Sequential(
        nn.Linear(4, 4),  # chain: 0
        Block(4),  # chain: 1
    )
