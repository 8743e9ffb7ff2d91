import torch
from case import right, wrong
from torch import nn


@wrong()
class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(20, 20), nn.ReLU()])

    def forward(self, x):
        return self.layers(x)


@wrong()
class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(20, 8)
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 2), "b": nn.Linear(8, 3)})

    def forward(self, x):
        h = torch.relu(self.body(x))
        return self.heads(h)


@wrong()
class ByAHelper(nn.Module):
    def __init__(self):
        super().__init__()
        blocks = [nn.Linear(20, 20) for _ in range(2)]
        self.encoder = nn.ModuleList(blocks)

    def encode(self, x):
        encoder = self.encoder
        return encoder(x)

    def forward(self, x):
        return torch.relu(self.encode(x))


@right()
class Chained(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 20), nn.ReLU())
        self.heads = nn.ModuleDict({"a": nn.Linear(20, 2)})

    def forward(self, x):
        return self.heads["a"](self.layers(x))


class Chain(nn.ModuleList):
    def forward(self, x):
        for layer in self:
            x = layer(x)
        return x


@right()
class OwnList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = Chain([nn.Linear(20, 20), nn.ReLU()])

    def forward(self, x):
        return self.layers(x)
