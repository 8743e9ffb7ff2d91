import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
class SoftmaxTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 5), nn.Softmax(dim=1))

    def forward(self, x):
        return F.log_softmax(self.net(x), dim=1)


@wrong()
class SigmoidTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(20, 1), nn.Sigmoid()

    def forward(self, x):
        probability = self.act(self.fc(x))
        return torch.sigmoid(probability.squeeze(-1))


class Probabilities(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        return self.fc(x).softmax(-1)


@wrong()
class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Probabilities()

    def forward(self, x):
        return {"probabilities": nn.functional.softmax(self.model(x), dim=-1)}


@right("batch", 6, 20)
class AttentionThenClasses(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.fc = nn.Linear(20, 1), nn.Linear(20, 3)

    def forward(self, x):
        pooled = (torch.softmax(self.score(x), 1) * x).sum(1)
        return torch.softmax(self.fc(pooled), dim=-1)


@right()
def gates():
    return nn.Sequential(nn.Linear(20, 8), nn.Sigmoid(), nn.Linear(8, 2), nn.Sigmoid())
