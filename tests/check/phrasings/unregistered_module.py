from functools import partial

import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
class PlainList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = []
        for _ in range(3):
            self.layers.append(nn.Linear(20, 20))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


@wrong()
class NestedDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(20, 8)
        self.tasks = {"age": {"head": nn.Linear(8, 1)}, "kind": {"head": nn.Linear(8, 4)}}

    def forward(self, x):
        h = torch.relu(self.body(x))
        return {name: task["head"](h) for name, task in self.tasks.items()}


@wrong()
class Composed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)
        project = nn.Linear(8, 2)
        self.finish = lambda h: project(torch.relu(h))

    def forward(self, x):
        return self.finish(self.fc(x))


@right()
class NamesAndModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.names = []
        for i in range(3):
            self.add_module(f"layer{i}", nn.Linear(20, 20))
            self.names.append(f"layer{i}")
        self.act = partial(F.leaky_relu, negative_slope=0.1)

    def forward(self, x):
        for name in self.names:
            x = self.act(getattr(self, name)(x))
        return x


@right()
class AlsoRegistered(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 20), nn.Linear(20, 20)
        self.order = [self.b, self.a]
        self.kinds = {"linear": nn.Linear, "relu": nn.ReLU}

    def forward(self, x):
        for layer in self.order:
            x = torch.relu(layer(x))
        return x
