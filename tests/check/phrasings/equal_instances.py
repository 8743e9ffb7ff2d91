import copy

import torch
from case import right, wrong
from torch import nn


def clones(module, n):
    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])


@wrong()
class Cloned(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = clones(nn.Linear(20, 20), 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class Seeded(nn.Module):
    def __init__(self, seed=42):
        super().__init__()
        torch.manual_seed(seed)
        self.fc = nn.Linear(20, 20)

    def forward(self, x):
        return torch.relu(self.fc(x))


@wrong()
class Reproducible(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Seeded(), Seeded(), nn.Linear(20, 2))

    def forward(self, x):
        return self.blocks(x)


@wrong()
class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor, self.critic = nn.Linear(20, 4), nn.Linear(20, 4)
        self.critic.load_state_dict(self.actor.state_dict())

    def forward(self, x):
        return torch.cat([self.actor(x), torch.relu(self.critic(x))], 1)


@right()
class Target(nn.Module):
    def __init__(self):
        super().__init__()
        self.online = nn.Linear(20, 4)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x):
        return self.online(x) - self.target(x)


@right()
class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 20), nn.Linear(20, 20)
        self.norm_a, self.norm_b = nn.LayerNorm(20), nn.LayerNorm(20)
        nn.init.zeros_(self.a.bias)
        nn.init.zeros_(self.b.bias)

    def forward(self, x):
        return self.norm_b(self.b(torch.relu(self.norm_a(self.a(x)))))
