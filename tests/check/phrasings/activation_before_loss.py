import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong(loss=nn.CrossEntropyLoss())
class HeadEndsInSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.2))
        self.classifier = nn.Sequential(
            nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3), nn.Softmax(dim=-1)
        )

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.flatten(1))


@wrong(loss=nn.BCEWithLogitsLoss())
class SigmoidByTanh(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(20, 1)

    def forward(self, x):
        return 0.5 * (torch.tanh(0.5 * self.out(x)) + 1)


@wrong(loss=F.cross_entropy)
class StableSoftmaxByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(20, 5)

    def forward(self, x):
        logits = self.out(x)
        weights = torch.exp(logits - logits.max(dim=-1, keepdim=True).values)
        return weights / weights.sum(dim=-1, keepdim=True)


@right("batch", 6, 20, loss=nn.CrossEntropyLoss())
class AttentionPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.out = nn.Linear(20, 1), nn.Linear(20, 3)

    def forward(self, x):
        weights = torch.softmax(self.score(x), dim=1)
        return self.out((weights * x).sum(1))


@right(loss=nn.BCEWithLogitsLoss())
class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.value, self.gate = nn.Linear(20, 4), nn.Linear(20, 4)

    def forward(self, x):
        return self.value(x) * torch.sigmoid(self.gate(x))
