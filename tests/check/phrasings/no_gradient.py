import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
class HardChoice(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(20, 4), nn.Parameter(torch.randn(4, 20, 3))

    def forward(self, x):
        chosen = self.gate(x).argmax(dim=-1)
        return torch.bmm(x.unsqueeze(1), self.experts[chosen]).squeeze(1)


@wrong()
class EncoderUnderNoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(20, 8), nn.Linear(8, 2)

    @torch.no_grad()
    def encode(self, x):
        return torch.relu(self.encoder(x))

    def forward(self, x):
        return self.head(self.encode(x))


@wrong()
class NewTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.tensor(self.a(x).tolist(), device=x.device)
        return self.b(torch.relu(h))


@right()
class StraightThrough(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        soft = torch.softmax(self.a(x), -1)
        hard = F.one_hot(soft.argmax(-1), 8).float()
        return self.b(hard + soft - soft.detach())


@right()
class Logged(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(8, 2)
        self.register_buffer("norm", torch.zeros(()))

    def forward(self, x):
        h = self.a(x)
        with torch.no_grad():
            self.norm.copy_(h.norm())
        return self.b(h)
