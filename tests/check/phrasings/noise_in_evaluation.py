import torch
from case import right, wrong
from torch import nn


@wrong()
class GaussianNoise(nn.Module):
    def __init__(self, std=0.1):
        super().__init__()
        self.std, self.fc = std, nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x + self.std * torch.randn_like(x))


@wrong()
class OwnDropout(nn.Module):
    def __init__(self, p=0.2):
        super().__init__()
        self.p, self.fc1, self.fc2 = p, nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.relu(self.fc1(x))
        keep = (torch.rand(h.shape, device=h.device) > self.p).float()
        return self.fc2(h * keep / (1 - self.p))


@wrong()
class DropPath(nn.Module):
    def __init__(self, p=0.1):
        super().__init__()
        self.p, self.block = p, nn.Linear(20, 20)

    def forward(self, x):
        keep = torch.empty(x.shape[0], 1, device=x.device).bernoulli_(1 - self.p)
        return x + self.block(x) * keep / (1 - self.p)


@right()
class OnlyInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        if not self.training:
            return self.fc(x)
        return self.fc(x + 0.1 * torch.randn_like(x))


@right()
class Variational(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.log_variance, self.out = (
            nn.Linear(20, 4),
            nn.Linear(20, 4),
            nn.Linear(4, 20),
        )

    def forward(self, x):
        mean, std = self.mean(x), torch.exp(0.5 * self.log_variance(x))
        return self.out(mean + torch.randn_like(std) * std), mean, std
