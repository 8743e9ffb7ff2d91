import torch
from case import right, wrong
from torch import nn


@wrong()
class HeadOfTheInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        h = torch.relu(self.fc(x))
        head = nn.Linear(h.size(1), 2).to(h.device)
        return head(h)


@wrong()
class ByAHelper(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def scaled(self, h):
        scale = nn.Parameter(torch.ones(h.shape[-1]))
        return h * scale

    def forward(self, x):
        return self.scaled(self.fc(x))


@wrong()
class DropoutMadeAnew(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = nn.ReLU()(self.fc1(x))
        x = nn.Dropout(0.5)(x)
        return self.fc2(x)


@right()
class Stateless(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        return nn.Softmax(dim=-1)(nn.ReLU()(self.fc(x)))


@right()
class MadeBefore(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)
        self.head = self.make_head(8)

    def make_head(self, width):
        return nn.Sequential(nn.Linear(width, width), nn.Dropout(0.1), nn.Linear(width, 2))

    def forward(self, x):
        return self.head(torch.relu(self.fc(x)))
