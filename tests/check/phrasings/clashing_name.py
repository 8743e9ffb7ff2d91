import torch
from case import right, wrong
from torch import nn


@wrong()
class TypeEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.type = nn.Linear(20, 20)
        self.out = nn.Linear(20, 2)

    def forward(self, x):
        return self.out(torch.relu(self.type(x)))


@wrong()
class Modules(nn.Module):
    def __init__(self):
        super().__init__()
        self.modules = nn.ModuleList([nn.Linear(20, 20), nn.Linear(20, 2)])

    def forward(self, x):
        for module in self.modules:
            x = module(x)
        return x


@wrong()
class PlainAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.parameters = {"width": 20, "depth": 1}
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x)


@right()
class NearNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.types, self.half_width, self.device = nn.Linear(20, 20), 10, "cpu"

    def forward(self, x):
        return self.types(x)


@right()
class OverriddenMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(20, 8), nn.Linear(8, 2)

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(torch.relu(self.backbone(x)))
