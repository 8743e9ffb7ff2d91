from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
class SoftmaxOverTheBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        return F.softmax(self.fc(x), dim=0)


@wrong("batch", 7, 5)
class NotBatchFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.LSTM(5, 8, num_layers=2), nn.Linear(8, 2)

    def forward(self, x):
        out, _ = self.rnn(x)
        return self.fc(out[:, -1])


@wrong("batch", 7, 16)
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x).mean(1)


@right("batch", 7, 5)
class BatchFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.norm = nn.GRU(5, 8, batch_first=True), nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.rnn(x)[0][:, -1])


@right("batch", 7, 5)
class TransposedForth(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.LSTM(5, 8), nn.Linear(8, 2)

    def forward(self, x):
        out, _ = self.rnn(x.transpose(0, 1))
        return self.fc(out[-1])
