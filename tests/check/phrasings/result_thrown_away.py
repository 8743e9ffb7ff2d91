import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
class ForgottenNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(20, 8), nn.LayerNorm(8)

    def forward(self, x):
        x = self.fc(x)
        self.norm(x)
        return torch.relu(x)


@wrong("batch", 8, 8)
class ForgottenAxis(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        x.unsqueeze(1)
        return self.conv(x[:, :, :, None].expand(-1, -1, -1, 8))


@wrong()
class NextToALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20, 20) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            F.relu(x)
        return x


@right()
class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.seen = nn.Linear(20, 8), []

    def note(self, x):
        self.seen = [tuple(x.shape)]

    def forward(self, x):
        x = self.fc(x)
        x.relu_()
        F.relu(x, inplace=True)
        self.note(x)
        return x


@right()
class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        h = self.fc(x)
        self.count.add_(1)
        torch.add(h.detach()[0, 0], 0, out=self.count.new_empty(()))
        return h
