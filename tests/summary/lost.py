"""A block whose mistake is told with its line: a golden picture shows it."""

from torch import nn


class Lost(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.layers = [nn.Linear(8, 8)]

    def forward(self, x):
        return x + self.layers[0](self.first(x))
