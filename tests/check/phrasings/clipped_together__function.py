import torch
from case import wrong
from torch import nn
from torch.nn import functional as F

import chimera as ch


@wrong()
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x)


def train(batches):
    nets = ch.Stack([Net() for _ in range(8)])
    optimizer = ch.optim.SGD(nets, lr=0.1)
    for x, y in batches:
        losses = F.cross_entropy(nets(x).flatten(0, 1), y.repeat(8))
        losses.backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters(), max_norm=1.0)
        optimizer.step()
