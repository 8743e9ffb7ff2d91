import torch
from case import right, wrong
from torch import nn

import chimera as ch


@wrong()
class Clipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        h = self.fc(x)
        norm = h.norm()
        return h / norm if norm > 1.0 else h


@wrong(ch.spec("batch", 9, 20), lengths=ch.spec("batch", dtype=torch.int64))
class Trimmed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x, lengths):
        longest = int(lengths.max())
        return self.fc(x[:, : longest + 1]).sum(1)


@wrong()
class OnlyPositive(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        h = self.fc(x)
        return h[h > 0].sum() + h.mean()


@right()
class ByShapeAndMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x, mask=None):
        if x.shape[0] > 1 and self.training:
            x = x + 0.0
        if mask is not None:
            x = x * mask
        assert x.dim() == 2
        return self.fc(x)


@right()
class Where(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        h = self.fc(x)
        norm = h.norm(dim=-1, keepdim=True)
        return torch.where(norm > 1.0, h / norm, h)
