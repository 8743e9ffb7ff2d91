"""How layers are made, kept and named."""

import copy
import itertools

import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong(rule="assigned-twice")
class HeadOverHead(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.body, self.head = nn.Linear(20, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(F.gelu(self.body(x)))


@right(rule="assigned-twice")
class HeadAroundHead(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.head = nn.Linear(20, classes)
        self.head = nn.utils.parametrizations.weight_norm(self.head)

    def forward(self, x):
        return self.head(x)


@wrong(rule="children-drop-repeats")
class Unrolled(nn.Module):
    def __init__(self):
        super().__init__()
        act = nn.Tanh()
        self.steps = nn.Sequential(nn.Linear(20, 16), act, nn.Linear(16, 8), act)

    def forward(self, x):
        todo = [*self.steps.children()]
        while todo:
            x = todo.pop(0)(x)
        return x


@right(rule="children-drop-repeats")
class UnrolledByIndex(nn.Module):
    def __init__(self):
        super().__init__()
        act = nn.Tanh()
        self.steps = nn.Sequential(nn.Linear(20, 16), act, nn.Linear(16, 8), act)

    def forward(self, x):
        for i in range(len(self.steps)):
            x = self.steps[i](x)
        return x


@wrong(rule="clashing-name")
class Copies(nn.Module):
    def __init__(self):
        super().__init__()
        self.compile = True
        self.out = nn.Linear(20, 5)

    def forward(self, x):
        return self.out(x)


@right(rule="clashing-name")
class Kinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.kind = "float"
        self.mode = nn.Linear(20, 5)

    def forward(self, x):
        return self.mode(x)


@wrong(rule="equal-instances")
class Clones(nn.Module):
    def __init__(self):
        super().__init__()
        expert = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 4))
        self.experts = nn.ModuleList(map(copy.deepcopy, [expert] * 3))

    def forward(self, x):
        return torch.stack([expert(x) for expert in self.experts]).mean(0)


@right(rule="equal-instances")
class Target(nn.Module):
    def __init__(self):
        super().__init__()
        self.online = nn.Linear(20, 4)
        self.slow = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x):
        return self.online(x) - self.slow(x)


@wrong(rule="exhausted-iterator")
class Paired(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.ModuleList(nn.Linear(20, 20) for _ in range(2))
        self.right = nn.ModuleList(nn.LayerNorm(20) for _ in range(2))
        self.steps = itertools.chain(self.left, self.right)

    def forward(self, x):
        for step in self.steps:
            x = step(x).tanh()
        return x


@right(rule="exhausted-iterator")
class PairedAnew(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.ModuleList(nn.Linear(20, 20) for _ in range(2))
        self.right = nn.ModuleList(nn.LayerNorm(20) for _ in range(2))

    @property
    def steps(self):
        return itertools.chain(self.left, self.right)

    def forward(self, x):
        for step in self.steps:
            x = step(x).tanh()
        return x


@wrong(rule="list-called")
class ByDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"fc": nn.Linear(20, 8), "act": nn.ReLU()})
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        h = self.encoder(x)
        return self.out(h)


@right(rule="list-called")
class ByKey(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"fc": nn.Linear(20, 8), "act": nn.ReLU()})
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        for step in self.encoder.values():
            x = step(x)
        return self.out(x)


@wrong(rule="missing-super-init")
class Early(nn.Module):
    def __init__(self, width=8):
        layers = nn.ModuleList([nn.Linear(20, width), nn.Linear(width, 2)])
        self.layers = layers
        nn.Module.__init__(self)

    def forward(self, x):
        return self.layers[1](self.layers[0](x).relu())


@right(rule="missing-super-init")
class ByTheClass(nn.Module):
    def __init__(self, width=8):
        layers = [nn.Linear(20, width), nn.Linear(width, 2)]
        nn.Module.__init__(self)
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return self.layers[1](self.layers[0](x).relu())


@wrong(rule="misspelled-method")
class Fowards(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def fowrard(self, x):
        return self.fc(x)


@right(rule="misspelled-method")
class Forwards(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward_features(self, x):
        return self.fc(x)

    def forward(self, x):
        return self.forward_features(x).relu()


@wrong(rule="shared-by-class")
class Registry(nn.Module):
    def __init__(self, made={"fc": nn.Linear(20, 5)}):  # noqa: B006, B008
        super().__init__()
        self.made = nn.ModuleDict(made)

    def forward(self, x):
        return self.made["fc"](x)


@right(rule="shared-by-class")
class RegistryOfKinds(nn.Module):
    kinds = {"fc": nn.Linear}

    def __init__(self):
        super().__init__()
        self.made = nn.ModuleDict({name: kind(20, 5) for name, kind in self.kinds.items()})

    def forward(self, x):
        return self.made["fc"](x)


@wrong(rule="shared-module")
class Fromkeys(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict(dict.fromkeys(["age", "sex", "income"], nn.Linear(20, 1)))

    def forward(self, x):
        return torch.cat([head(x) for head in self.heads.values()], 1)


@right(rule="shared-module")
class Fresh(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(20, 1) for name in ["age", "sex", "income"]})

    def forward(self, x):
        return torch.cat([head(x) for head in self.heads.values()], 1)


@wrong(rule="unregistered-module")
class BySlots(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"layers": {"first": nn.Linear(20, 8)}}
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.config["layers"]["first"](x).relu())


@right(rule="unregistered-module")
class ListOfRegistered(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(8, 2)
        self.order = [self.a, nn.functional.relu, self.b]

    def forward(self, x):
        for step in self.order:
            x = step(x)
        return x


@wrong(rule="parameter-lost")
class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        start = nn.Parameter(torch.ones(20))
        self.scale = start.mul(0.5)
        self.out = nn.Linear(20, 5)

    def forward(self, x):
        return self.out(x * self.scale)


@right(rule="parameter-lost")
class ScaledInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(20).mul(0.5))
        self.out = nn.Linear(20, 5)

    def forward(self, x):
        return self.out(x * self.scale)


@wrong(rule="plain-tensor")
class Frequencies(nn.Module):
    def __init__(self):
        super().__init__()
        self.__dict__["omega"] = 2.0 ** torch.arange(4)
        self.out = nn.Linear(80, 5)

    def forward(self, x):
        return self.out(torch.sin(x.unsqueeze(-1) * self.omega).flatten(1))


@right(rule="plain-tensor")
class FrequenciesAsNumbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.omega = [2.0**i for i in range(4)]
        self.out = nn.Linear(80, 5)

    def forward(self, x):
        return self.out(torch.cat([torch.sin(x * omega) for omega in self.omega], 1))


@wrong(rule="never-called")
class OldHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(20, 16)
        self.heads = nn.ModuleDict({"old": nn.Linear(16, 5), "new": nn.Linear(16, 5)})
        self.gate = nn.Linear(20, 16)

    def forward(self, x):
        h = torch.sigmoid(self.body(x)) * self.body(x)
        return self.heads["new"](h) + self.heads["old"](h)


@right(rule="never-called")
class WeightOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.proto = nn.Embedding(5, 20)

    def forward(self, x):
        return -torch.cdist(x, self.proto.weight)
