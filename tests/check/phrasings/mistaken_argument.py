from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
def leaky():
    return nn.Sequential(nn.Linear(20, 8), nn.LeakyReLU(True), nn.Linear(8, 2))


@wrong("batch", 5, 20)
class OneLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(input_size=20, hidden_size=8, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


@wrong("batch", 3, 8, 8)
class MomentumByPosition(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, 0.1)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x))).mean((2, 3))


@right()
def usual():
    return nn.Sequential(
        nn.Linear(20, 8, bias=False),
        nn.BatchNorm1d(8, eps=1e-3, momentum=0.01),
        nn.LeakyReLU(0.2, True),
        nn.Linear(8, 2),
    )


@right("batch", 5, 20)
class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(20, 8, 2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0][:, -1]
