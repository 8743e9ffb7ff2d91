"""Networks as people write them, lazily: built without data, equal in shape to torch's dry run."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import chimera as ch
from chimera.build.datafree import is_uninitialized
from chimera.build.inputs import as_inputs
from chimera.build.record import specified

IMAGE = ch.spec(2, 1, 64, 64)


def lenet():
    return nn.Sequential(
        nn.LazyConv2d(6, kernel_size=5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(2, 2),
        nn.LazyConv2d(16, kernel_size=5),
        nn.Sigmoid(),
        nn.AvgPool2d(2, 2),
        nn.Flatten(),
        nn.LazyLinear(120),
        nn.Sigmoid(),
        nn.LazyLinear(84),
        nn.Sigmoid(),
        nn.LazyLinear(10),
    )


def alexnet():
    return nn.Sequential(
        nn.LazyConv2d(8, kernel_size=11, stride=4, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.LazyConv2d(16, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Flatten(),
        nn.LazyLinear(64),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.LazyLinear(10),
    )


def vgg():
    def block(convolutions, channels):
        layers = []
        for _ in range(convolutions):
            layers += [nn.LazyConv2d(channels, kernel_size=3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.MaxPool2d(2, 2))

    blocks = [block(*shape) for shape in ((1, 4), (1, 8), (2, 16), (2, 16))]
    return nn.Sequential(*blocks, nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(10))


def nin():
    def block(channels, size, stride, padding):
        return nn.Sequential(
            nn.LazyConv2d(channels, size, stride, padding),
            nn.ReLU(),
            nn.LazyConv2d(channels, kernel_size=1),
            nn.ReLU(),
        )

    return nn.Sequential(
        block(8, 11, 4, 0),
        nn.MaxPool2d(3, stride=2),
        block(10, 3, 1, 1),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )


class Inception(nn.Module):
    def __init__(self, first, second, third, fourth):
        super().__init__()
        self.one = nn.LazyConv2d(first, kernel_size=1)
        self.two = nn.ModuleList(
            [nn.LazyConv2d(second[0], 1), nn.LazyConv2d(second[1], 3, padding=1)]
        )
        self.three = nn.ModuleList(
            [nn.LazyConv2d(third[0], 1), nn.LazyConv2d(third[1], 5, padding=2)]
        )
        self.pool, self.four = nn.MaxPool2d(3, 1, 1), nn.LazyConv2d(fourth, kernel_size=1)

    def forward(self, x):
        one, four = F.relu(self.one(x)), F.relu(self.four(self.pool(x)))
        two, three = x, x
        for layer in self.two:
            two = F.relu(layer(two))
        for layer in self.three:
            three = F.relu(layer(three))
        return torch.cat((one, two, three, four), dim=1)


def googlenet():
    return nn.Sequential(
        nn.LazyConv2d(8, kernel_size=7, stride=2, padding=3),
        nn.ReLU(),
        Inception(4, (3, 6), (2, 4), 4),
        Inception(8, (4, 8), (2, 6), 4),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


class ResidualBlock(nn.Module):
    def __init__(self, channels, project=False, stride=1):
        super().__init__()
        self.conv1 = nn.LazyConv2d(channels, 3, padding=1, stride=stride)
        self.conv2 = nn.LazyConv2d(channels, 3, padding=1)
        self.conv3 = nn.LazyConv2d(channels, 1, stride=stride) if project else None
        self.bn1, self.bn2 = nn.LazyBatchNorm2d(), nn.LazyBatchNorm2d()

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.conv3 is not None:
            x = self.conv3(x)
        y += x
        return F.relu(y)


def resnet():
    return nn.Sequential(
        nn.LazyConv2d(8, kernel_size=7, stride=2, padding=3),
        nn.LazyBatchNorm2d(),
        nn.ReLU(),
        ResidualBlock(8),
        ResidualBlock(16, project=True, stride=2),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


class DenseBlock(nn.Module):
    def __init__(self, convolutions, channels):
        super().__init__()
        self.net = nn.Sequential(
            *(
                nn.Sequential(
                    nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(channels, 3, padding=1)
                )
                for _ in range(convolutions)
            )
        )

    def forward(self, x):
        for block in self.net:
            x = torch.cat((x, block(x)), dim=1)
        return x


def densenet():
    return nn.Sequential(
        nn.LazyConv2d(8, kernel_size=3),
        DenseBlock(3, 4),
        nn.Sequential(nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(10, 1), nn.AvgPool2d(2, 2)),
        DenseBlock(2, 4),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


class Recurrent(nn.Module):
    """A recurrent network over token indices, its state made in forward."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.rnn = nn.GRU(16, 24, num_layers=2, batch_first=True)
        self.out = nn.LazyLinear(50)

    def forward(self, tokens):
        state = torch.zeros(2, tokens.shape[0], 24)
        output, state = self.rnn(self.embedding(tokens), state)
        return self.out(output), state


class CellLoop(nn.Module):
    """A cell called step after step, on a zero state, writing into a result made before."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTMCell(6, 8), nn.LazyLinear(3)

    def forward(self, x):
        hidden, memory = torch.zeros(x.shape[0], 8), torch.zeros(x.shape[0], 8)
        result = torch.zeros(x.shape[0], x.shape[1], 3)
        for step in range(x.shape[1]):
            hidden, memory = self.cell(x[:, step], (hidden, memory))
            result[:, step] = self.out(hidden)
        return result


class PositionalEncoding(nn.Module):
    def __init__(self, size, longest=100):
        super().__init__()
        self.table = torch.zeros((1, longest, size))
        angle = torch.arange(longest).reshape(-1, 1) / torch.pow(
            10000, torch.arange(0, size, 2) / size
        )
        self.table[:, :, 0::2], self.table[:, :, 1::2] = torch.sin(angle), torch.cos(angle)

    def forward(self, x):
        return x + self.table[:, : x.shape[1], :].to(x.device)


class Attention(nn.Module):
    """Dot-product attention with a mask from lengths, in several heads."""

    def __init__(self, size, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.LazyLinear(size), nn.LazyLinear(size)
        self.value, self.out = nn.LazyLinear(size), nn.LazyLinear(size)

    def split(self, x):
        x = x.reshape(x.shape[0], x.shape[1], self.heads, -1).permute(0, 2, 1, 3)
        return x.reshape(-1, x.shape[2], x.shape[3])

    def forward(self, x, memory, lengths=None):
        query, key, value = map(self.split, (self.query(x), self.key(memory), self.value(memory)))
        scores = torch.bmm(query, key.transpose(1, 2)) / math.sqrt(query.shape[-1])
        if lengths is not None:
            lengths = torch.repeat_interleave(lengths, repeats=self.heads, dim=0)
            steps = torch.arange(scores.shape[-1], device=scores.device)
            scores = scores.masked_fill(steps[None, None, :] >= lengths[:, None, None], -1e6)
        mixed = torch.bmm(scores.softmax(-1), value)
        mixed = mixed.reshape(-1, self.heads, mixed.shape[1], mixed.shape[2]).permute(0, 2, 1, 3)
        return self.out(mixed.reshape(mixed.shape[0], mixed.shape[1], -1))


class EncoderDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(40, 16), nn.Embedding(30, 16)
        self.position = PositionalEncoding(16)
        self.encoder, self.decoder = Attention(16, 4), Attention(16, 4)
        self.norm = nn.LayerNorm(16)
        self.out = nn.LazyLinear(30)

    def forward(self, source, target, lengths):
        memory = self.position(self.source(source) * math.sqrt(16))
        memory = self.norm(memory + self.encoder(memory, memory, lengths))
        state = self.position(self.target(target))
        return self.out(self.norm(state + self.decoder(state, memory, lengths)))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(16, 4, 1, 1, 32, batch_first=True, dropout=0.1)
        self.source, self.out = nn.LazyLinear(16), nn.LazyLinear(5)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.out(self.transformer(self.source(source), self.source(target), tgt_mask=mask))


class TwoTowers(nn.Module):
    """Takes a dict, returns a dict."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(8))
        self.text, self.head = nn.EmbeddingBag(20, 8), nn.Bilinear(8, 8, 3)

    def forward(self, batch, *, scale):
        image, text = self.image(batch["image"]), self.text(batch["text"])
        return {"score": self.head(image, text) * scale, "parts": [image, text]}


class GAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Sequential(
            nn.LazyConvTranspose2d(8, 4),
            nn.LazyBatchNorm2d(),
            nn.ReLU(),
            nn.LazyConvTranspose2d(3, 4, 2, 1),
        )

    def forward(self, z):
        return torch.tanh(self.up(z[:, :, None, None]))


TOKENS = ch.spec(2, 9, dtype=torch.int64)
NETWORKS = {
    "lenet": (lenet, IMAGE),
    "alexnet": (alexnet, ch.spec(2, 1, 96, 96)),
    "vgg": (vgg, IMAGE),
    "nin": (nin, ch.spec(2, 1, 96, 96)),
    "googlenet": (googlenet, IMAGE),
    "resnet": (resnet, IMAGE),
    "densenet": (densenet, IMAGE),
    "recurrent": (Recurrent, TOKENS),
    "cell": (CellLoop, ch.spec(2, 5, 6)),
    "encoder-decoder": (
        EncoderDecoder,
        ch.inputs(TOKENS, ch.spec(2, 7, dtype=torch.int64), ch.spec(2, dtype=torch.int64)),
    ),
    "transformer": (Transformer, ch.inputs(ch.spec(2, 9, 6), ch.spec(2, 7, 6))),
    "dict": (
        TwoTowers,
        ch.inputs({"image": ch.spec(2, 3, 8, 8), "text": TOKENS}, scale=ch.spec()),
    ),
    "gan": (GAN, ch.spec(2, 10)),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def real(leaf):
    shape = leaf.sized({})
    return torch.zeros(shape, dtype=leaf.dtype) if leaf.dtype == torch.int64 else torch.rand(shape)


def dry_run(net, inputs):
    """What torch itself makes of the network."""
    with torch.no_grad():
        return net, net(*inputs.args, **inputs.kwargs)


@each_network
@pytest.mark.filterwarnings("ignore:.*adopted as a buffer:chimera.ChimeraWarning")
def test_a_network_is_built_as_torchs_dry_run_would(name):
    factory, spec = NETWORKS[name]
    inputs = as_inputs(spec).map(real)
    net = factory()
    expected, _ = dry_run(factory(), inputs)
    built = ch.build(net, spec)
    assert built is net
    mine, theirs = dict(built.named_parameters()), dict(expected.named_parameters())
    assert {key: value.shape for key, value in mine.items()} == {
        key: value.shape for key, value in theirs.items()
    }
    assert not any(is_uninitialized(value) for value in (*mine.values(), *built.buffers()))
    for (_, module), (_, other) in zip(
        built.named_modules(), expected.named_modules(), strict=True
    ):
        assert type(module) is type(other)
        assert module.extra_repr() == other.extra_repr()
        assert len(module._forward_pre_hooks) == len(other._forward_pre_hooks)
    built(*inputs.args, **inputs.kwargs)


@each_network
def test_shapes_are_those_of_a_real_run(name):
    factory, spec = NETWORKS[name]
    inputs = as_inputs(spec).map(real)
    net, output = dry_run(factory(), inputs)
    for found in (ch.shapes(factory, spec), ch.shapes(factory(), spec), ch.shapes(net, spec)):
        assert found.parameters == sum(parameter.numel() for parameter in net.parameters())
        assert found.output == specified(output)
        assert [row.path for row in found.rows] == [path for path, _ in net.named_modules()]


class Mixture(nn.Module):
    """Sends each row to one expert, by masks."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 8)
        self.experts = nn.ModuleList(nn.LazyLinear(8) for _ in range(8))

    def forward(self, x):
        chosen, output = self.gate(x).argmax(-1), torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            mask = chosen == index
            if mask.any():
                output = output + mask[:, None] * expert(x)
        return output


class Energy(nn.Module):
    """Answers with a gradient with respect to its input."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.layers(x).sum(), x, create_graph=True)[0]


@pytest.mark.parametrize(
    "factory",
    [
        Mixture,
        Energy,
        lambda: nn.DataParallel(nn.Linear(8, 8)),
        lambda: torch.compile(nn.Sequential(nn.Linear(8, 8)), backend="eager"),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)),
        lambda: nn.utils.spectral_norm(nn.Linear(8, 8)),
    ],
    ids=["mixture", "energy", "parallel", "compiled", "orthogonal", "spectral"],
)
def test_networks_that_do_unusual_things(factory):
    net = ch.build(factory(), ch.spec("batch", 8))
    assert not any(is_uninitialized(parameter) for parameter in net.parameters())
    assert ch.shapes(net, ch.spec("batch", 8)).output == ch.spec("batch", 8)
