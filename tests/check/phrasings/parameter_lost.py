import torch
from case import right, wrong
from torch import nn


@wrong()
class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 5)) * 0.02
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x):
        return x @ self.weight + self.bias


@wrong()
class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 20)
        self.kernel = nn.Parameter(torch.randn(5, 20)).t()

    def forward(self, x):
        return self.fc(x) @ self.kernel


@wrong()
class Moved(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        temperature = nn.Parameter(torch.ones(1))
        self.temperature = temperature.to(dtype)
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        return self.fc(x) / self.temperature.float()


@right()
class ScaledBefore(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 5) * 0.02)
        self.register_parameter("bias", nn.Parameter(torch.zeros(5)))

    def forward(self, x):
        return x @ self.weight + self.bias


@right()
class SizeOfAParameter(nn.Module):
    def __init__(self):
        super().__init__()
        weight = nn.Parameter(torch.randn(20, 5))
        self.weight = weight
        self.count = weight.numel()
        self.width = nn.Parameter(torch.ones(3)).shape[0]

    def forward(self, x):
        return x @ self.weight / self.count * self.width
