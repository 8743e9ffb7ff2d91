import torch
from case import right, wrong
from torch import nn


@wrong("batch", 10, 16)
class SpatialDropoutOfWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.fc = nn.Dropout2d(0.2), nn.Linear(16, 2)

    def forward(self, x):
        return self.fc(self.drop(x).mean(1))


@wrong("batch", 10, 16)
class ViewForATranspose(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(16, 8, 3)

    def forward(self, x):
        batch, length, channels = x.shape
        return self.conv(x.view(batch, channels, length)).mean(-1)


@wrong("batch", 10, 16)
class LastOfBothWays(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        output, _ = self.rnn(x)
        return self.fc(output[:, -1, :])


@right("batch", 10, 16)
class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv1d(16, 8, 3), nn.Dropout1d(0.1)

    def forward(self, x):
        return self.drop(self.conv(x.transpose(1, 2))).mean(-1)


@right("batch", 10, 16)
class BothEnds(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        output, (hidden, _) = self.rnn(x)
        heads = output.reshape(x.size(0), 10, 2, 8)
        return self.fc(torch.cat([hidden[-2], hidden[-1]], dim=-1)) + heads.mean((1, 2))[:, :2]
