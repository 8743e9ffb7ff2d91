"""Five clean networks, of five kinds. Each has a place where mistakes are planted.

``NETWORKS`` gives, by name: a factory, the specification of its inputs, and the path of a module
that takes and gives features ``[batch, WIDTH]``.
"""

import torch
from torch import nn
from torch.nn import functional as F

import chimera as ch

WIDTH = 12


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, WIDTH)
        self.features = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.features(self.hidden(x).relu()))


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.second(self.norm(self.first(x)).relu())


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.GELU(), Residual(WIDTH))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.neck = nn.ModuleDict({"mixed": nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())})
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.neck["mixed"](self.pool(self.stem(x)).flatten(1)))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        q, k, v = self.queries(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.down(self.mlp(x))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, WIDTH)
        self.position = nn.Parameter(torch.zeros(1, 7, WIDTH))
        self.blocks = nn.Sequential(*[Block(WIDTH) for _ in range(2)])
        self.pooled = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, tokens):
        x = self.blocks(self.embedding(tokens) + self.position)
        return self.head(self.pooled(x.mean(1)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.GRU(6, WIDTH, batch_first=True)
        self.summary = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1), nn.ReLU())
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        _, state = self.encoder(x)
        return self.head(self.summary(state[-1]))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, WIDTH), nn.SiLU())
        self.code = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.decoder = nn.Sequential(nn.Linear(WIDTH, 16))
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, x, condition):
        h = self.code(self.encoder(x) + condition)
        return self.decoder(h) * self.scale


NETWORKS = {
    "perceptron": (Perceptron, ch.spec("batch", 20), "features"),
    "convolutional": (Convolutional, ch.spec("batch", 3, 10, 10), "neck.mixed"),
    "transformer": (Transformer, ch.spec("batch", 7, dtype=torch.int64), "pooled"),
    "recurrent": (Recurrent, ch.spec("batch", 6, 6), "summary"),
    "autoencoder": (
        Autoencoder,
        ch.inputs(ch.spec("batch", 16), ch.spec("batch", WIDTH)),
        "code",
    ),
}
