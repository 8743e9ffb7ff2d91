import torch
from case import right, wrong
from torch import nn


@wrong("batch", 10, 16)
class Positional(nn.Module):
    def __init__(self, length=10, width=16):
        super().__init__()
        self.encoding = torch.zeros(length, width)
        self.encoding[:, 0::2] = torch.sin(torch.arange(length).float())[:, None]
        self.fc = nn.Linear(width, width)

    def forward(self, x):
        return self.fc(x + self.encoding[: x.size(1)])


@wrong()
class Statistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.stats = {"mean": torch.full((20,), 0.5), "std": torch.full((20,), 0.2)}
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc((x - self.stats["mean"]) / self.stats["std"])


@wrong()
class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        for i in range(2):
            setattr(self, f"mask{i}", (torch.arange(20) % 2 == i).float())
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x * self.mask0) + self.fc(x * self.mask1)


@right()
class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        mean = torch.full((20,), 0.5)
        self.register_buffer("mean", mean)
        self.std = nn.Buffer(torch.full((20,), 0.2))
        self.size = mean.shape
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc((x - self.mean) / self.std)


@right()
class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.rates = torch.linspace(0, 0.5, 3).tolist()
        self.dtype, self.fc = torch.float32, nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x.to(self.dtype)) * self.rates[1]
