import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
class OfALayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(F.relu(self.encoder.forward(x)))


@wrong()
class InALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(20, 20), nn.Linear(20, 20)])

    def forward(self, x):
        for index in range(len(self.layers)):
            x = torch.relu(self.layers[index].forward(x))
        return x


@wrong()
class ByAName(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        body = self.body
        return self.head(torch.tanh(body.forward(x)))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        return torch.relu(self.fc(x))


@right()
class Super(Base):
    def forward(self, x):
        return super().forward(x) * 2


@right()
class OtherMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward_features(self, x):
        return torch.relu(self.fc(x))

    def forward(self, x):
        return self.forward_features(x).mean(1)
