"""Modules of kinds that once differed from the loop in silence, and others as strange.

Each is a fixed case: outputs, gradients and state of three steps are those of the members alone.
"""

import collections
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch

X = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)


class GradientInVmap(Base):
    """Asks, inside of two transforms of its own, whether a tensor requires a gradient."""

    def forward(self, x):
        def energy(row):
            return self.layer(row).square().sum()

        rows = torch.func.vmap(torch.func.grad(energy))(x)
        return rows, torch.func.vmap(torch.func.grad_and_value(energy))(x), self.layer(x)


class Adapts(Base):
    """Two steps of gradient descent inside of forward."""

    def forward(self, x):
        def loss(parameters):
            return torch.func.functional_call(self.layer, parameters, (x,)).square().mean()

        parameters = dict(self.layer.named_parameters())
        for _ in range(2):
            grads = torch.func.grad(loss)(parameters)
            parameters = {name: p - 0.1 * grads[name] for name, p in parameters.items()}
        return torch.func.functional_call(self.layer, parameters, (x,))


class ConditionInVmap(Base):
    """A condition that torch refuses alone, too."""

    def forward(self, x):
        try:
            return torch.vmap(lambda row: self.layer(row) if row.sum() > 0 else row[:4])(x)
        except RuntimeError:
            return self.layer(x) * 3


class Curved(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, x):
        def energy(row):
            return torch.tanh(row * self.weight).sum()

        own = torch.autograd.functional.jacobian(energy, x[1], create_graph=True)
        return torch.func.hessian(energy)(x[0]), torch.func.jacfwd(energy)(x[2]), own


class GivesData(Base):
    """Lets a parameter and a buffer have other memory."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(4))

    def forward(self, x):
        h = self.layer(x)
        with torch.no_grad():
            smaller = self.layer.weight * 0.9
        self.layer.weight.data = smaller
        self.mean.data = self.mean * 0.5 + h.detach().mean(0)
        return self.layer(x) * self.mean


class GivesDataSometimes(GivesData):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else self.layer(x)


class TakesData(Base):
    def forward(self, x):
        self.layer.weight.data = self.layer.weight.data * 0.9
        self.layer.bias.data.mul_(0.5)
        return self.layer(x)


class Vector(Base):
    """Writes its parameters from one vector, which gives them other memory."""

    def forward(self, x):
        parameters = list(self.layer.parameters())
        vector = nn.utils.parameters_to_vector(parameters).detach()
        nn.utils.vector_to_parameters(vector * 0.9, parameters)
        return self.layer(x)


class MovesItself(Base):
    def forward(self, x):
        return self.layer.to(x.device, x.dtype)(x)


class Sparse(Base):
    def __init__(self):
        super().__init__()
        links = (torch.rand(5, 5) > 0.6).double().fill_diagonal_(1)
        self.register_buffer("links", links.to_sparse())

    def forward(self, x):
        return torch.sparse.mm(self.links, self.layer(x))


class Quantizes(Base):
    def __init__(self):
        super().__init__()
        self.codes = nn.Embedding(6, 4)
        self.register_buffer("used", torch.zeros(6, dtype=torch.long))

    def forward(self, x):
        z = self.layer(x)
        chosen = torch.cdist(z, self.codes.weight).argmin(-1)
        self.used += torch.bincount(chosen, minlength=6)
        code = self.codes(chosen)
        return z + (code - z).detach(), F.mse_loss(code, z.detach()), chosen


class Queue(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.zeros(6, 4))
        self.register_buffer("at", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        h = self.layer(x)
        scores = h @ self.queue.clone().t()
        self.queue[self.at % 6] = h.detach().mean(0)
        self.at += 1
        return scores


class StartsFromData(Base):
    """Sets its scale from the first batch."""

    def __init__(self):
        super().__init__()
        self.started = False
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        h = self.layer(x)
        if not self.started:
            with torch.no_grad():
                self.scale.copy_(1 / (h.std(0) + 1e-3))
            self.started = True
        return h * self.scale


class OptimizesInside(Base):
    def forward(self, x):
        z = torch.zeros(4, dtype=x.dtype, requires_grad=True)
        optimizer = torch.optim.SGD([z], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (self.layer(x).detach() - z).square().sum().backward()
            optimizer.step()
        return self.layer(x) - z.detach()


class Penalty(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = self.net(x)
            (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y, grad.norm(dim=1)


class Notes(Base):
    def __init__(self):
        super().__init__()
        self.log = collections.defaultdict(list)
        self.state = {}

    @functools.cached_property
    def offsets(self):
        return torch.arange(4.0, dtype=torch.float64)

    def forward(self, x):
        h = self.layer(x) + self.offsets
        self.log["mean"].append(h.detach().mean())
        before = self.state.get("h", torch.zeros(4, dtype=h.dtype))
        self.state["h"] = before * 0.5 + h.detach().mean(0)
        return h * len(self.log["mean"]) + before


class ReplacedForward(Base):
    def __init__(self):
        super().__init__()
        own = self.layer.forward
        self.layer.forward = lambda x: own(x) * 2
        self.call = self.run

    def run(self, x):
        return self.layer(x) + 1

    def forward(self, x):
        return self.call(x)


STRANGE = [
    *(GradientInVmap, Adapts, ConditionInVmap, Curved, GivesData, GivesDataSometimes, TakesData),
    Vector,
    *(MovesItself, Sparse, Quantizes, Queue, StartsFromData, OptimizesInside, Penalty, Notes),
    ReplacedForward,
]


# What torch itself says: of forward mode, and of a member's row, which is no leaf.
OF_TORCH = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated",
    "ignore:The .grad attribute of a Tensor that is not a leaf",
    "ignore:Sparse CSR tensor support is in beta",
)


@OF_TORCH
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("training", [True, False])
def test_strange_modules(agree, members, kind, training):
    agree([module.train(training) for module in members(kind, 4)], ch.each(X))


@pytest.mark.parametrize("kind", [GradientInVmap, Adapts, Queue, StartsFromData])
def test_some_of_them_run_as_one(members, kind):
    stack = ch.Stack(members(kind, 4))
    stack(ch.each(X))
    assert not ch.explain(stack).alone


class Fourier(nn.Module):
    """Complex weights, of real inputs and of complex ones."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 4, dtype=torch.complex128), nn.Linear(4, 3, dtype=torch.complex128)
        )
        self.wave = nn.Conv1d(1, 2, 3, dtype=torch.complex128)
        self.phase = nn.Parameter(torch.randn(5, dtype=torch.complex128))

    def forward(self, x):
        y = self.wave(x.to(torch.complex128).unsqueeze(1))
        back = torch.fft.irfft(torch.fft.rfft(x) * self.phase, n=8)
        return self.layers(x.to(torch.complex128)), y.abs(), back


def test_complex_layers(agree):
    modules = []
    for index in range(4):
        torch.manual_seed(index)
        modules.append(Fourier())
    stack = agree(modules, ch.each(X))
    assert not ch.explain(stack).alone


class Reshapes(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(0, 4))

    def forward(self, x):
        h = self.layer(x)
        self.rows.data = torch.cat([self.rows, h.detach()[:1]])
        return h


def test_data_of_another_shape_is_refused(members):
    stack = ch.Stack(members(Reshapes, 3))
    said = r"rows: forward gives its \.data to \(1, 4\) .* self.name = value"
    with pytest.raises(TypeError, match=said):
        stack(X[0])
    assert stack[0].rows.shape == (0, 4)


@OF_TORCH
def test_sparse_tensors_in_other_layouts_are_refused():
    net = Base()
    net.register_buffer("links", torch.eye(4).to_sparse_csr())
    with pytest.raises(ValueError, match=r"modules\[0\]: links is torch.sparse_csr.*to_sparse_coo"):
        ch.Stack([net, net])


def test_why_they_run_alone_is_said(members):
    stack = ch.Stack(members(GivesData, 3))
    stack(ch.each(X[:3]))
    assert "gives a tensor's .data other memory" in str(ch.explain(stack))


class Resizes(Base):
    """Takes memory that goes on into another member's."""

    def forward(self, x):
        h = self.layer(x)
        return h + h.detach().clone().resize_(2, 2).sum()


class AsksViews(Base):
    """Asks what a tensor is a view of, which says nothing of a batched one."""

    def forward(self, x):
        h = self.layer(x)
        return h * (2 if h[0]._base is h else 3) * (1 if h[0]._is_view() else 5)


@pytest.mark.parametrize("kind", [Resizes, AsksViews])
def test_answers_of_memory(agree, members, kind):
    agree(members(kind, 4), ch.each(X))


class Leaks(Base):
    """Outside of training its slope is one number, which must not be rounded to float32."""

    def __init__(self):
        super().__init__()
        self.leak = nn.RReLU()

    def forward(self, x):
        return self.leak(self.layer(x)) + F.rrelu(self.layer(x), 0.1, 0.3)


def test_a_slope_in_float64(agree, members):
    agree([net.eval() for net in members(Leaks, 4)], ch.each(X), tolerance=1e-14, steps=1)
