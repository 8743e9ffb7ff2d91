import torch
from case import right, wrong
from torch import nn


@wrong()
class Fordward(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def fordward(self, x):
        return self.fc(x)


@wrong()
class Initialized(nn.Module):
    def __int__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x)


@wrong()
class Capital(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def Forward(self, x):
        return self.fc(x)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.forward_head(self.fc(x))


@right()
class OnlyAPart(Base):
    def forward_head(self, x):
        return torch.tanh(x)


class Reward(nn.Module):
    """Is never called itself."""

    def __init__(self):
        super().__init__()
        self.value = nn.Linear(20, 1)

    def reward(self, x):
        return self.value(x)


@right()
class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Reward()

    def forward(self, x):
        return self.model.reward(x)
