"""The work that comparisons of populations are about: networks, batches, losses, and their cost.

A row is a training step (forward, loss, backward, Adam) of ``members`` networks of one structure,
each with its own batch. What a step costs at least is counted from shapes, never measured:

- operations: two for each multiplication of a product of matrices, forward and backward, without
  the gradient of the input;
- bytes: of each parameter two reads (forward, backward), a written gradient, and Adam's four reads
  and three writes; of each activation between layers a write and two reads.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
PER_PARAMETER, PER_ACTIVATION = 10, 3


@dataclass(frozen=True)
class Cost:
    """What a step of one member costs: products' operations, and numbers moved."""

    operations: int
    numbers: int


@dataclass(frozen=True)
class Row:
    """Members of one kind, "mlp", "cnn" or "gru".

    Attributes:
        kind: of the network.
        widths: of an MLP from input to output; of a CNN the channels and classes; of a GRU the
            input and the hidden state.
        members: how many.
        batch: rows a member.
        steps: of a GRU; of a CNN the height of the images.
    """

    kind: str
    widths: tuple[int, ...]
    members: int
    batch: int
    steps: int = 0

    @property
    def name(self) -> str:
        shape = "->".join(map(str, self.widths))
        if self.kind == "cnn":
            channels = " and ".join(map(str, self.widths[:-1]))
            size = f"{self.steps}x{self.steps}"
            return f"{self.members} CNNs ({channels} channels, {size}), batch {self.batch}"
        more = f", {self.steps} steps" if self.kind == "gru" else ""
        return f"{self.members} {self.kind.upper()}s {shape}{more}, batch {self.batch}"

    def make(self) -> nn.Module:
        """One member."""
        return {"mlp": _mlp, "cnn": _cnn, "gru": _gru}[self.kind](self)

    def written(self) -> nn.Module | None:
        """One member in operations that ``torch.vmap`` knows, where ``make`` has others."""
        return Written(*self.widths) if self.kind == "gru" else None

    @property
    def loss(self) -> Loss:
        return nn.functional.mse_loss if self.kind == "gru" else nn.functional.cross_entropy

    def batches(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Inputs [members, batch, ...] and targets [members, batch, ...]."""
        generator = torch.Generator().manual_seed(1)
        shape: tuple[int, ...] = (self.widths[0],)
        if self.kind == "cnn":
            shape = (1, self.steps, self.steps)
        elif self.kind == "gru":
            shape = (self.steps, self.widths[0])
        lead = (self.members, self.batch)
        x = torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)
        if self.kind == "gru":
            y = torch.randn(*lead, self.widths[1], generator=generator, dtype=torch.float64)
            return x.to(device, dtype), y.to(device, dtype)
        y = torch.randint(self.widths[-1], lead, generator=generator)
        return x.to(device, dtype), y.to(device)

    @property
    def cost(self) -> Cost:
        """Of a step of one member."""
        parameters = sum(p.numel() for p in self.make().parameters())
        forward, first, activations = {"mlp": _mlp_cost, "cnn": _cnn_cost, "gru": _gru_cost}[
            self.kind
        ](self)
        numbers = PER_PARAMETER * parameters + PER_ACTIVATION * self.batch * activations
        return Cost(self.batch * (3 * forward - first), numbers)


class Last(nn.Module):
    """The last hidden state of a GRU [batch, hidden]."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0][:, -1]


class Written(nn.Module):
    """``Last`` written out: the same parameters by the same names, the cell turn by turn."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.Module()
        for name, parameter in nn.GRU(features, hidden).named_parameters():
            self.gru.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        given = nn.functional.linear(x, self.gru.weight_ih_l0, self.gru.bias_ih_l0)
        h = x.new_zeros(x.shape[0], self.gru.weight_hh_l0.shape[1])
        for now in given.transpose(0, 1):
            r_x, z_x, n_x = now.chunk(3, -1)
            state = nn.functional.linear(h, self.gru.weight_hh_l0, self.gru.bias_hh_l0)
            r_h, z_h, n_h = state.chunk(3, -1)
            r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
            h = (1 - z) * torch.tanh(n_x + r * n_h) + z * h
        return h


def _mlp(row: Row) -> nn.Module:
    layers: list[nn.Module] = []
    for width, following in zip(row.widths, row.widths[1:], strict=False):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _cnn(row: Row) -> nn.Module:
    layers: list[nn.Module] = []
    channels = (1, *row.widths[:-1])
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    size = row.steps >> (len(channels) - 1)
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels[-1] * size * size, row.widths[-1])
    )


def _gru(row: Row) -> nn.Module:
    return Last(*row.widths)


def _mlp_cost(row: Row) -> tuple[int, int, int]:
    products = [2 * a * b for a, b in zip(row.widths, row.widths[1:], strict=False)]
    return sum(products), products[0], sum(row.widths)


def _cnn_cost(row: Row) -> tuple[int, int, int]:
    channels, size = (1, *row.widths[:-1]), row.steps
    products, activations = [], size * size
    for before, after in itertools.pairwise(channels):
        products.append(2 * 9 * before * after * size * size)
        activations += after * size * size
        size //= 2
        activations += after * size * size
    products.append(2 * channels[-1] * size * size * row.widths[-1])
    return sum(products), products[0], activations


def _gru_cost(row: Row) -> tuple[int, int, int]:
    features, hidden = row.widths
    inputs = 2 * 3 * features * hidden * row.steps
    states = 2 * 3 * hidden * hidden * row.steps
    return inputs + states, inputs, row.steps * (features + 4 * hidden)


CPU = (
    Row("mlp", (64, 32, 10), 256, 32),
    Row("mlp", (20, 256, 10), 64, 32),
    Row("mlp", (64, 256, 256, 10), 64, 128),
    Row("cnn", (16, 32, 10), 16, 32, 8),
    Row("gru", (16, 32), 64, 8, 20),
)
"""The rows of the table for a CPU."""

GPU = (
    Row("mlp", (64, 64, 10), 1024, 32),
    Row("mlp", (64, 64, 10), 8192, 32),
    Row("mlp", (64, 256, 256, 10), 1024, 128),
    Row("cnn", (16, 32, 10), 64, 64, 8),
)
"""The rows of the table for a GPU."""


def drawn(seed: int, count: int, device: torch.device) -> tuple[Row, ...]:
    """``count`` rows of shapes that nobody chose, the same for a seed."""
    draw, rows = random.Random(seed), []
    most = 4096 if device.type == "cuda" else 256
    while len(rows) < count:
        kind = draw.choice(("mlp", "mlp", "cnn", "gru"))
        batch = draw.choice((4, 8, 16, 32, 64, 128))
        members = int(2 ** draw.uniform(3, most.bit_length() - 1))
        if kind == "mlp":
            widths = tuple(draw.randint(4, 300) for _ in range(draw.randint(2, 4)))
            row = Row(kind, (*widths, draw.randint(2, 20)), members, batch)
        elif kind == "cnn":
            widths = tuple(draw.randint(4, 40) for _ in range(draw.randint(1, 2)))
            row = Row(kind, (*widths, draw.randint(2, 20)), members, batch, draw.choice((8, 12)))
        else:
            widths = (draw.randint(4, 40), draw.randint(4, 60))
            row = Row(kind, widths, members, batch, draw.randint(4, 30))
        cost = row.cost
        if members * cost.operations < 2e10 and members * cost.numbers < 3e8:
            rows.append(row)
    return tuple(rows)
