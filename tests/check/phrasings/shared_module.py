import torch
from case import right, wrong
from torch import nn

import chimera as ch


@wrong()
def times_n():
    return nn.Sequential(*[nn.Sequential(nn.Linear(20, 20), nn.ReLU())] * 3)


@wrong()
class Comprehension(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(20, 20)
        self.layers = nn.ModuleList([layer for _ in range(3)])

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


@wrong(ch.spec("batch", 6, dtype=torch.int64))
class TiedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, words):
        return self.out(self.embed(words).mean(1))


@right()
def three_instances():
    return nn.Sequential(*[nn.Sequential(nn.Linear(20, 20), nn.ReLU()) for _ in range(3)])


@right()
class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 20)

    def forward(self, x):
        return self.fc(torch.relu(self.fc(x)))
