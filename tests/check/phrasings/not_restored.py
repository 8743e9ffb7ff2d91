import random

import numpy as np
import torch
from case import right, wrong
from torch import nn


@wrong()
class RandomProjection(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("projection", torch.randn(20, 8), persistent=False)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(torch.cos(x @ self.projection))


@wrong()
class Permuted(nn.Module):
    def __init__(self):
        super().__init__()
        self.order = random.sample(range(20), 20)
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(torch.relu(x[:, self.order] * torch.arange(20, device=x.device)))


@wrong()
class NumpyConstant(nn.Module):
    def __init__(self):
        super().__init__()
        self.frequencies = np.random.randn(20).astype("float32")
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(torch.sin(x * torch.as_tensor(self.frequencies, device=x.device)))


@right("batch", 10, 16)
class Positional(nn.Module):
    def __init__(self):
        super().__init__()
        places = torch.arange(10).unsqueeze(1) / 10000 ** (torch.arange(16) / 16)
        self.register_buffer("places", torch.sin(places), persistent=False)
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        return self.fc(x + self.places)


@right()
class Kept(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("projection", torch.randn(20, 8))
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(torch.cos(x @ self.projection))
