import torch
from case import right, wrong
from torch import nn

import chimera as ch


@wrong(ch.spec("batch", 6, 20), mask=ch.spec("batch", 6, dtype=torch.bool))
class ForgottenMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(20, 2, batch_first=True)

    def forward(self, x, mask):
        out, _ = self.attention(x, x, x)
        return out.mean(1)


@wrong(ch.spec("batch", 20), ch.spec("batch", 5))
class Overwritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(20, 8), nn.Linear(5, 8)

    def forward(self, image, text):
        h = torch.relu(self.image(image))
        h = torch.relu(self.text(text))
        return h


@wrong(ch.spec("batch", 20), ch.spec("batch", 5))
class OnlyItsShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x, condition):
        condition = torch.zeros(condition.shape[0], 8, device=x.device)
        return self.fc(x) + condition


@right(ch.spec("batch", 6, 20), mask=ch.spec("batch", 6, dtype=torch.bool))
class UsedMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x, mask):
        return self.fc(x).masked_fill(~mask.unsqueeze(-1), 0).sum(1)


@right(ch.spec("batch", 20), ch.spec("batch", dtype=torch.int64))
class Picked(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(10, 20), nn.Linear(20, 3)

    def forward(self, x, kind):
        return self.fc(x * self.embed(kind))
