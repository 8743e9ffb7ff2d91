import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
class Empty(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(20, 5))
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x):
        return x @ self.weight + self.bias


@wrong()
class OldStyle(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.FloatTensor(20))
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        return self.fc(x * self.scale)


@wrong()
class EmptyLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)
        self.register_buffer("average", torch.empty_like(self.fc.weight))

    def forward(self, x):
        return F.linear(x, self.fc.weight - self.average, self.fc.bias)


@right()
class Reset(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(20, 5))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x):
        return x @ self.weight


@right()
class FilledAtOnce(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(20, 5).uniform_(-0.1, 0.1))
        bound = torch.empty(5)
        bound.fill_(1.0)
        self.register_buffer("bound", bound)

    def forward(self, x):
        return torch.minimum(x @ self.weight, self.bound)
