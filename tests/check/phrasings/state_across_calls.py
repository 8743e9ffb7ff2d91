import torch
from case import right, wrong
from torch import nn


@wrong("batch", 5, 20)
class Carried(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.hidden = nn.GRU(20, 8, batch_first=True), None

    def forward(self, x):
        out, self.hidden = self.rnn(x, self.hidden)
        return out[:, -1]


@wrong()
class History(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.history = nn.Linear(20, 8), []

    def forward(self, x):
        h = self.fc(x)
        self.history.append(h.mean().item())
        return h


@wrong()
class HookACall(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        self.fc.register_forward_hook(lambda module, args, output: output.clamp(-1, 1))
        return self.fc(x)


@right()
class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.last = nn.Linear(20, 8), None

    def forward(self, x):
        h = self.fc(x)
        self.last = h.detach()
        return h


@right()
class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.cache = nn.Linear(20, 20), {}
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.steps += 1
        if x.shape[1] not in self.cache:
            self.cache[x.shape[1]] = x.shape[1] ** 0.5
        return self.fc(x) / self.cache[x.shape[1]]
