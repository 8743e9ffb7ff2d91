"""The batch, axes, shapes and losses."""

import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F

import chimera as ch


@wrong(rule="activation-before-loss", loss=nn.CrossEntropyLoss())
class Probable(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        e = torch.exp(self.fc(x))
        return e / e.sum(dim=1, keepdim=True)


@right(rule="activation-before-loss", loss=nn.CrossEntropyLoss())
class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        logits = self.fc(x)
        return logits - logits.mean(dim=1, keepdim=True)


@wrong(rule="batch-axis-lost")
class OneNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 1)

    def forward(self, x):
        return torch.sigmoid(torch.squeeze(self.fc(x)))


@right(rule="batch-axis-lost")
class OneNumberEach(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 1)

    def forward(self, x):
        return torch.sigmoid(torch.squeeze(self.fc(x), dim=-1))


@wrong(rule="broadcast-rows", loss=nn.MSELoss())
class Residuals(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 1)

    def forward(self, x):
        predicted = self.fc(x)
        baseline = x.mean(dim=1)
        return predicted - baseline


@right(rule="broadcast-rows")
class ResidualsKept(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 1)

    def forward(self, x):
        return self.fc(x) - x.mean(dim=1, keepdim=True)


@wrong("batch", 3, 8, 8, rule="does-not-run")
class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2)
        self.out = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x):
        return self.out(self.down(x).relu().flatten(1))


@right("batch", 3, 8, 8, rule="does-not-run")
class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.out = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x):
        return self.out(self.down(x).relu().flatten(1))


@wrong("batch", 6, 4, rule="fixed-batch")
class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(24, 3)

    def forward(self, x):
        rows = torch.zeros(16, 6, 4)
        rows += x
        return self.out(rows.reshape(x.shape[0], 24))


@right("batch", 6, 4, rule="fixed-batch")
class PositionsOfRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.where = nn.Parameter(torch.zeros(1, 6, 4))
        self.out = nn.Linear(24, 3)

    def forward(self, x):
        rows = torch.zeros(len(x), 6, 4, device=x.device)
        return self.out((rows + x + self.where).reshape(len(x), 24))


@wrong(rule="input-unused", x=ch.spec("batch", 20), context=ch.spec("batch", 4))
class Deaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 20)
        self.out = nn.Linear(20, 2)

    def forward(self, x, context):
        gate = torch.sigmoid(self.mix(context))
        gate = torch.ones_like(gate)
        return self.out(x * gate)


@right(rule="input-unused", x=ch.spec("batch", 20), context=ch.spec("batch", 4))
class Hears(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 20)
        self.out = nn.Linear(20, 2)

    def forward(self, x, context):
        return self.out(x.lerp(self.mix(context), 0.1))


@wrong("batch", 6, 8, rule="mistaken-axis")
class Swapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(8, 4, 3)

    def forward(self, x):
        n, steps, features = x.shape
        return self.conv(x.reshape(n, features, steps)).mean(-1)


@right("batch", 6, 8, rule="mistaken-axis")
class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(8, 4, 3)

    def forward(self, x):
        return self.conv(x.swapaxes(1, 2)).mean(-1)


@wrong("batch", 6, 8, rule="mistaken-mask")
class LooksAhead(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        scores = self.q(x) @ self.k(x).mT / 8**0.5
        seen = torch.ones(6, 6, dtype=torch.bool, device=x.device).tril()
        return scores.masked_fill(seen, -torch.inf).softmax(-1).nan_to_num() @ self.v(x)


@right("batch", 6, 8, rule="mistaken-mask")
class LooksBack(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        scores = self.q(x) @ self.k(x).mT / 8**0.5
        seen = torch.ones(6, 6, dtype=torch.bool, device=x.device).tril()
        return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ self.v(x)


@wrong(rule="mixes-rows")
class Whitened(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(20, 5)

    def forward(self, x):
        spread, centre = torch.std_mean(x, dim=0, keepdim=True)
        return self.out((x - centre) / (spread + 1e-5))


@right(rule="mixes-rows")
class WhitenedEach(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(20, 5)

    def forward(self, x):
        spread, centre = torch.std_mean(x, dim=1, keepdim=True)
        return self.out((x - centre) / (spread + 1e-5))


@wrong(rule="softmax-without-dim")
class Implicit(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(20, 5), nn.LogSoftmax()

    def forward(self, x):
        return self.norm(self.fc(x))


@right(rule="softmax-without-dim")
class Explicit(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(20, 5), nn.LogSoftmax(-1)

    def forward(self, x):
        return self.norm(self.fc(x))


@wrong(rule="repeated-activation")
class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(20, 20), nn.Sigmoid())
        self.out = nn.Linear(20, 2)

    def forward(self, x):
        return self.out(x * F.sigmoid(self.gate(x)))


@right(rule="repeated-activation")
class GatedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(20, 20), nn.Sigmoid())
        self.out = nn.Linear(20, 2)

    def forward(self, x):
        return torch.sigmoid(self.out(x * self.gate(x)))
