"""What people do with layers: parametrizations, ties, hooks, state, nested values, dtypes.

Each is held against the loop: forward, gradients and buffers in float32 and float64, and twenty
steps of Adam in float64. ``alone`` marks what runs one by one.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from layer_proof import loss
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import chimera as ch

MEMBERS = 5


def pruned() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    prune.random_unstructured(net[0], "weight", amount=0.3)
    prune.l1_unstructured(net[0], "weight", amount=2)
    prune.ln_structured(net[2], "weight", amount=1, n=2, dim=0)
    return net


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(4, 6)
        self.decode.weight = nn.Parameter(self.encode.weight.detach().t().contiguous())
        self.again = nn.Linear(6, 4)
        self.again.weight = self.encode.weight

    def forward(self, x):
        return self.again(self.decode(torch.tanh(self.encode(x))))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.chain = nn.Sequential(self.layer, nn.Tanh(), self.layer)

    def forward(self, x):
        return self.chain(x) + self.layer(x)


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    net[0].requires_grad_(False)
    return net


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.phase = nn.Buffer(torch.randn(4, dtype=torch.complex64))
        self.order = nn.Buffer(torch.randperm(4))
        self.seen = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.seen += len(x)
        return (self.layer(x)[:, self.order] * self.phase).abs()


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.by_name = nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.Linear(6, 3)})
        self.scales = nn.ParameterDict({"a": nn.Parameter(torch.rand(3))})
        self.more = nn.ParameterList([nn.Parameter(torch.rand(6)) for _ in range(2)])

    def forward(self, x):
        for block, scale in zip(self.blocks, self.more, strict=True):
            x = torch.tanh(block(x) * scale)
        return self.by_name["a"](x) * self.scales["a"] + self.by_name["b"](x)


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.calls = 0
        self.mean = nn.Buffer(torch.zeros(4))
        self.last = None

    def forward(self, x):
        h = self.layer(x)
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        self.last = h.detach()
        return h - self.mean


@dataclass
class Pair:
    mean: Tensor
    rest: dict[str, Any]


class Structures(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x, *, bias, gain=2.0):
        h = self.layer(x) * gain + bias["b"]
        return Pair(h.mean(), {"rows": (h, h.argmax(1)), "name": "pair"})


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        h = self.layer(x)
        return h * 2 if self.layer.bias.sum().item() > 0 else h


class Chooses(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        h = self.layer(x)
        return h[h > 0].square().sum()


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        h = self.layer(x)
        h += 1
        h[:, 1:3].mul_(2)
        h = torch.relu_(h)
        return h.sum()


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.layer.register_forward_hook(lambda module, args, output: output * 3)

    def forward(self, x):
        return self.layer(x)


class Packed(nn.Module):
    """Sequences of several lengths, packed inside."""

    def __init__(self, kind=nn.LSTM, **options):
        super().__init__()
        self.layer = kind(6, 4, batch_first=True, bidirectional=True, **options)

    def forward(self, x):
        packed = pack_padded_sequence(
            x.view(1, 5, 6).expand(3, 5, 6), [3, 5, 2], batch_first=True, enforce_sorted=False
        )
        output, _ = self.layer(packed)
        return pad_packed_sequence(output, batch_first=True)[0]


def convolved(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), wrap(nn.Conv1d(1, 3, 2)))


def linear(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(wrap(nn.Linear(6, 4)), nn.Tanh(), wrap(nn.Linear(4, 4)))


def orthogonal(name: str) -> Callable[[], nn.Module]:
    return linear(lambda layer: parametrizations.orthogonal(layer, orthogonal_map=name))


def images(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(6, 72), nn.Unflatten(1, (2, 6, 6)), *(layer() for layer in layers)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": linear(parametrizations.weight_norm),
    "weight norm of a convolution": convolved(parametrizations.weight_norm),
    "old weight norm": linear(weight_norm),
    "old weight norm of all": linear(lambda layer: weight_norm(layer, dim=None)),
    "spectral norm": linear(parametrizations.spectral_norm),
    "old spectral norm": convolved(lambda layer: spectral_norm(layer, n_power_iterations=2)),
    "orthogonal by matrix exponential": orthogonal("matrix_exp"),
    "orthogonal by Cayley": orthogonal("cayley"),
    "orthogonal by Householder": orthogonal("householder"),
    "pruned": pruned,
    "tied weights": Tied,
    "shared submodule": Shared,
    "frozen layer": frozen,
    "complex and integer buffers": Buffers,
    "nested containers": Nested,
    "state written in forward": Remembers,
    "item()": Branches,
    "in place": InPlace,
    "boolean indexing": Chooses,
    "hook": Hooked,
    "packed sequences": Packed,
    "packed sequences, GRU of two layers": lambda: Packed(nn.GRU, num_layers=2),
    "packed sequences, projected": lambda: Packed(proj_size=2),
    "batch norm without momentum": images(lambda: nn.BatchNorm2d(2, momentum=None), nn.Flatten),
    "batch norm without statistics": images(
        lambda: nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten
    ),
    "instance norm with statistics": images(
        lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True), nn.Flatten
    ),
    "dropout in the middle": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.Dropout(0.4), nn.ReLU(), nn.Linear(8, 2)
    ),
    "group norm": images(lambda: nn.GroupNorm(1, 2), nn.Flatten),
    "padded convolution": images(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")),
}
# Five members are too few for two runs to pay.
ALONE = {"boolean indexing", "hook", "item()"}


def members(factory: Callable[[], nn.Module], dtype: torch.dtype) -> list[nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old forms of the norms
        modules = ch.instances(factory, MEMBERS)
    return [module.double() if dtype is torch.float64 else module for module in modules]


def rows(dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(MEMBERS, *(shape or (5, 6)), generator=generator, dtype=dtype)


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("name", NETWORKS)
class TestNetworks:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_one_pass(self, name, dtype):
        stack = ch.Stack(members(NETWORKS[name], dtype))
        ch.verify(stack, ch.each(rows(dtype)), raises=True)
        stack(ch.each(rows(dtype)))
        assert bool(ch.explain(stack).alone) == (name in ALONE)

    def test_twenty_steps(self, name):
        stack = ch.Stack(members(NETWORKS[name], torch.float64))
        x = ch.each(rows(torch.float64))
        optimizer = ch.optim.Adam(stack, lr=1e-3)
        ch.verify(stack, x, loss=loss, optimizer=optimizer, steps=20, raises=True)

    def test_evaluation(self, name):
        stack = ch.Stack([module.eval() for module in members(NETWORKS[name], torch.float32)])
        ch.verify(stack, ch.each(rows(torch.float32)), raises=True)


def test_members_that_are_frozen_beside_others_that_are_not():
    modules = members(lambda: nn.Linear(6, 4), torch.float64)
    modules[1].requires_grad_(False)
    modules[3].weight.requires_grad_(False)
    stack = ch.Stack(modules)
    assert len(list(stack.parameters())) == 2
    x = ch.each(rows(torch.float64))
    ch.verify(stack, x, raises=True)


def test_structures_and_keywords():
    stack = ch.Stack(members(Structures, torch.float32))
    bias = {"b": rows(torch.float32, 4)}
    inputs = ch.inputs(ch.each(rows(torch.float32)), bias=ch.each(bias), gain=3.0)
    ch.verify(stack, inputs, raises=True)
    found = stack(ch.each(rows(torch.float32)), bias=ch.each(bias))
    assert isinstance(found, Pair)
    assert found.mean.shape == (MEMBERS,)
    assert found.rest["rows"][1].dtype is torch.int64
    assert found.rest["name"] == "pair"


def test_a_parametrization_of_the_users_own():
    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).transpose(-1, -2)

    def factory():
        layer = nn.Linear(6, 6)
        nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
        return layer

    stack = ch.Stack(members(factory, torch.float64))
    ch.verify(stack, ch.each(rows(torch.float64)), raises=True)


@pytest.mark.parametrize(
    "factory",
    [
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
        convolved(nn.Identity()),
        lambda: nn.GRU(6, 4),
    ],
    ids=["linear", "norm", "convolution", "recurrent"],
)
def test_autocast_is_that_of_the_module_alone(factory):
    modules = members(factory, torch.float32)
    stack = ch.Stack(modules)
    x = rows(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = stack(ch.each(x))
        apart = [module(one) for module, one in zip(modules, x, strict=True)]
    pairs = zip(flat(together), map(torch.stack, zip(*map(flat, apart), strict=True)), strict=True)
    for ours, theirs in pairs:
        assert ours.dtype is theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [t for part in output for t in flat(part)]


def test_linear_gives_bfloat16_under_autocast():
    stack = ch.Stack(members(lambda: nn.Linear(6, 4), torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = stack(ch.each(rows(torch.float32)))
    assert out.dtype is torch.bfloat16
    out.float().sum().backward()
    assert all(parameter.grad.dtype is torch.float32 for parameter in stack.parameters())


def test_channels_last():
    modules = members(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)), torch.float32
    )
    for module in modules:
        module.to(memory_format=torch.channels_last)
    x = rows(torch.float32, 2, 3, 6, 6)
    x = torch.stack([one.contiguous(memory_format=torch.channels_last) for one in x])
    ch.verify(ch.Stack(modules), ch.each(x), raises=True)


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (lambda: nn.Linear(6, 4), (0, 6)),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (0, 6)),
        (lambda: nn.Conv2d(3, 4, 3), (0, 3, 6, 6)),
        (lambda: nn.Sequential(nn.LayerNorm(6), nn.Softmax(-1)), (0, 6)),
        (lambda: nn.GroupNorm(1, 2), (0, 2, 4)),
    ],
    ids=["linear", "chain", "convolution", "softmax", "group norm"],
)
def test_a_batch_of_nothing(factory, shape):
    stack = ch.Stack(members(factory, torch.float32))
    ch.verify(stack, ch.each(rows(torch.float32, *shape)), raises=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (lambda: nn.Conv2d(3, 16, 3, padding=1), (8, 3, 26, 26)),
        (lambda: nn.Conv2d(4, 16, 3, padding="same", padding_mode="circular"), (8, 4, 24, 24)),
        (lambda: nn.Conv1d(4, 32, 4, padding=2, padding_mode="replicate"), (16, 4, 600)),
        (lambda: nn.Conv2d(4, 16, 3, groups=2, dilation=2, padding_mode="reflect"), (8, 4, 28, 28)),
        (lambda: nn.ConvTranspose2d(3, 8, 3, stride=2, output_padding=1), (8, 3, 18, 18)),
    ],
)
def test_large_convolutions_of_many_run_separately(factory, shape, dtype, monkeypatch):
    from chimera.stack.rules import convolution

    monkeypatch.setattr(convolution, "LARGE", 10_000)
    monkeypatch.setattr(convolution, "SEPARATE_FROM", 100_000)
    seen = []
    separately = convolution._separately
    monkeypatch.setattr(
        convolution, "_separately", lambda *args: seen.append(1) or separately(*args)
    )
    stack = ch.Stack(members(factory, dtype)[:3])
    ch.verify(stack, ch.each(rows(dtype, *shape)[:3]), raises=True)
    assert seen
