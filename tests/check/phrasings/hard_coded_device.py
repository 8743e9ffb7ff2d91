import torch
from case import right, wrong
from torch import nn

import chimera as ch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@wrong()
class Moved(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        noise = torch.zeros(x.shape)
        if torch.cuda.is_available():
            noise = noise.cuda()
        return self.fc(x + noise)


@wrong()
class ModuleConstant(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8).to(DEVICE)

    def forward(self, x):
        return self.fc(x.to(DEVICE))


@wrong(ch.spec("batch", 12, dtype=torch.int64))
class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(12, 8)

    def forward(self, words):
        places = torch.arange(words.size(1)).unsqueeze(0)
        return (self.words(words) + self.places(places)).mean(1)


@right()
class OfTheInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        start = torch.zeros(x.size(0), 8, device=x.device, dtype=x.dtype)
        return start + self.fc(x) + x.new_ones(1)


@right()
class Created(nn.Module):
    def __init__(self, device=None):
        super().__init__()
        self.fc = nn.Linear(20, 8, device=device)
        self.register_buffer("mask", torch.ones(20, device=device))

    def forward(self, x):
        return self.fc(x * self.mask + torch.zeros_like(x))
