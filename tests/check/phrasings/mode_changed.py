import torch
from case import right, wrong
from torch import nn


@wrong()
class EvalInConstructor(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 8), nn.Dropout(0.1))
        self.backbone.eval()
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.backbone(x))


@wrong()
class DropoutLeftOn(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(20, 8), nn.Dropout(0.5)

    def forward(self, x):
        self.drop.train()
        return self.drop(self.fc(x))


@wrong()
class Sampled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8))

    def forward(self, x):
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.train(False)
        return self.net(x)


@right()
class FrozenNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(20, 8, bias=False), nn.BatchNorm1d(8)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.fc(x))


@right()
class FrozenBody(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(20, 8), nn.Linear(8, 2)
        self.body.requires_grad_(False)

    def predict(self, x):
        self.eval()
        return self(x)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))
