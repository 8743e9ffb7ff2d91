from case import right, wrong
from torch import nn


@wrong()
class ClassLayer(nn.Module):
    norm = nn.LayerNorm(20)

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(self.norm(x))


@wrong()
class DefaultModule(nn.Module):
    def __init__(self, activation=nn.PReLU()):  # noqa: B008 - the mistake
        super().__init__()
        self.fc, self.activation = nn.Linear(20, 2), activation

    def forward(self, x):
        return self.activation(self.fc(x))


@wrong()
class ClassList(nn.Module):
    layers = [nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2)]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@right()
class DefaultClass(nn.Module):
    def __init__(self, activation=nn.PReLU):
        super().__init__()
        self.fc, self.activation = nn.Linear(20, 2), activation()

    def forward(self, x):
        return self.activation(self.fc(x))


@right()
class Constants(nn.Module):
    width, sizes = 20, (20, 2)
    norm = nn.LayerNorm

    def __init__(self):
        super().__init__()
        self.fc, self.first = nn.Linear(*self.sizes), self.norm(self.width)

    def forward(self, x):
        return self.fc(self.first(x))
