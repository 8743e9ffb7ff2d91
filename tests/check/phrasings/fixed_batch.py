import torch
from case import right, wrong
from torch import nn


@wrong("batch", 1, 8, 8)
class ViewOf32(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.view(32, -1))


@wrong("batch", 5, 4)
class FixedState(nn.Module):
    def __init__(self, batch_size=16):
        super().__init__()
        self.rnn = nn.LSTM(4, 8, batch_first=True)
        self.batch_size = batch_size

    def forward(self, x):
        h = torch.zeros(1, self.batch_size, 8, device=x.device)
        out, _ = self.rnn(x, (h, torch.zeros_like(h)))
        return out[:, -1]


@wrong()
class MaskOfTheBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 20)
        self.register_buffer("mask", torch.ones(8, 20))

    def forward(self, x):
        return self.fc(x) * self.mask


@right("batch", 1, 8, 8)
class ViewOfTheRest(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.view(-1, 64))


@right("batch", 5, 4)
class StateOfTheInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x):
        h = x.new_zeros(1, x.size(0), 8)
        out, _ = self.rnn(x, (h, h.clone()))
        return out[:, -1]
