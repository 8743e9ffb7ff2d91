"""Modules that nobody chose, in stacks of any size, against the loop of the same modules.

A module is made from a plan of nested tuples, so that a failure prints what to make again; plans
that failed once are in ``KNOWN``.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chimera as ch

WIDTH = 4
LOG = []
SLOPE = torch.tensor([0.3, -1.1, 0.7, 0.9], dtype=torch.float64)


def positive(x):
    """A condition that no norm brings near its threshold, where rounding would decide."""
    return (x * SLOPE).sum() > 0.1


class Shift(nn.Module):
    """Adds a plain tensor attribute that is each member's own."""

    def __init__(self):
        super().__init__()
        self.offset = torch.randn(WIDTH, dtype=torch.float64)

    def forward(self, x):
        return x + self.offset


class Branch(nn.Module):
    def __init__(self, then, otherwise):
        super().__init__()
        self.then, self.otherwise = then, otherwise

    def forward(self, x):
        return self.then(x) if positive(x) else self.otherwise(x)


class Shrink(nn.Module):
    """``while`` on data, in plain Python."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        x = self.inner(x)
        while x.abs().sum() > 6:
            x = x / 2
        return x


class Memory(nn.Module):
    """Keeps a tensor, a counter, a list that grows, a dict, and a buffer that it assigns."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.last, self.calls, self.means, self.table = inner, None, 0, [], {}
        self.register_buffer("average", torch.zeros(WIDTH))

    def forward(self, x):
        h = self.inner(x)
        if self.last is not None:
            h = h + 0.1 * self.last
        self.calls += 1
        self.last = h.detach().mean(0)
        self.means.append(self.last.mean())
        self.table["calls", self.calls % 2] = self.last * self.calls
        self.average = 0.9 * self.average + 0.1 * self.last
        return h + self.average * len(self.means)


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x) * torch.rand(WIDTH, dtype=x.dtype)


class Coin(nn.Module):
    """A condition on a draw: members differ in it by chance alone."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if torch.rand(()) < 0.5 else x


class Number(nn.Module):
    """Asks for a Python number: the sign alone, so that not every member has its own."""

    def forward(self, x):
        return x * (1.5 + float(positive(x).item()))


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul(1.0).add_(0.5).relu_()


class Decay(nn.Module):
    """Writes to its own parameter in every call."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x):
        with torch.no_grad():
            self.scale.mul_(0.9)
        return x * (self.scale * 1)  # a product that is not changed later


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.two.weight = self.one.weight
        self.layers = [self.one, self.two, self.one]
        self.hidden = {"norm": nn.LayerNorm(WIDTH).double()}

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return self.hidden["norm"](x)


class Guards(nn.Module):
    """Catches an error of some members."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x):
        matrix = torch.diag(self.scale.detach() - 0.1)
        try:
            return x @ torch.linalg.cholesky(matrix)
        except torch.linalg.LinAlgError:
            return x * self.scale


class Logs(nn.Module):
    """Keeps what it computed in a list of its file."""

    def forward(self, x):
        LOG.append(x.detach().mean(0))
        del LOG[:-2]
        return x + 0.1 * LOG[-1]


class Clears(nn.Module):
    """Reads its gradient and clears it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x):
        grad = self.scale.grad
        x = x if grad is None else x + 0.01 * grad.detach()
        self.zero_grad()
        return x * self.scale


class Moves(nn.Module):
    """Gives its weight other memory after it was used."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x):
        x = torch.tanh(x * self.scale)
        self.scale.data = self.scale.data * 0.9
        return x


class TwoInputs(nn.Module):
    def __init__(self, one, two):
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x, *, gate=None):
        h = self.one(x)
        h = h if gate is None else h * gate.sigmoid()
        return {"sum": h + self.two(x), "parts": (h.mean(), None, "text")}


def moving(state):
    return state.abs().sum() > 4


def halved(state):
    return state * 0.5


SIMPLE = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "no bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "mean norm": lambda: nn.BatchNorm1d(WIDTH, momentum=None),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "prelu": nn.PReLU,
    "dropout": lambda: nn.Dropout(0.3),
    "alpha dropout": lambda: nn.AlphaDropout(0.2),
    "constant": lambda: ch.Constant(torch.randn(WIDTH, dtype=torch.float64)),
    "shift": Shift,
    "noise": Noise,
    "number": Number,
    "in place": InPlace,
    "decay": Decay,
    "tied": Tied,
    "guards": Guards,
    "logs": Logs,
    "clears": Clears,
    "moves": Moves,
}


class Added(nn.Module):
    """Adds what a Constant gives, which takes no input."""

    def __init__(self, constant):
        super().__init__()
        self.constant = constant

    def forward(self, x):
        return x + self.constant()


def make(plan):
    """The module of a plan."""
    name, *inner = plan if isinstance(plan, tuple) else (plan,)
    if name == "constant":
        return Added(SIMPLE[name]())
    if name in SIMPLE:
        return SIMPLE[name]()
    if name == "repeat":
        return ch.Repeat(lambda: make(inner[0]), inner[1], share=inner[2])
    if name == "twice":
        layer = make(inner[0])
        return ch.Sequential(layer, nn.Tanh(), layer)
    parts = [make(part) for part in inner]
    if name == "sequential":
        return ch.Sequential(*parts)
    if name == "parallel":
        return ch.Parallel(*parts, combine="mean")
    if name == "residual":
        return ch.Residual(parts[0])
    if name == "cond":
        return ch.Cond(positive, *parts)
    if name == "while":
        return ch.Sequential(parts[0], ch.While(moving, halved, 6))
    if name == "while module":
        return ch.While(moving, ch.Sequential(parts[0], nn.Tanh()), 3)
    return {"branch": Branch, "shrink": Shrink, "memory": Memory, "coin": Coin}[name](*parts)


def _wider(inner):
    return st.one_of(
        st.tuples(st.just("sequential"), inner, inner),
        st.tuples(st.just("sequential"), inner, inner, inner),
        st.tuples(st.just("parallel"), inner, inner),
        st.tuples(st.sampled_from(["cond", "branch"]), inner, inner),
        st.tuples(
            st.sampled_from(["residual", "while", "while module", "shrink", "memory", "coin"]),
            inner,
        ),
        st.tuples(st.just("twice"), inner),
        st.tuples(st.just("repeat"), inner, st.integers(1, 3), st.booleans()),
    )


plans = st.recursive(st.sampled_from(sorted(SIMPLE)), _wider, max_leaves=6)


def members_by(plan, n, root=make):
    modules = []
    for index in range(n):
        torch.manual_seed(index)
        modules.append(root(plan).double())
    return modules


def data(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


KNOWN = [
    (("branch", "linear", "dropout"), 9, False),
    (("sequential", "guards", ("coin", "logs"), "moves"), 5, True),
    (("memory", ("parallel", "clears", "guards")), 4, False),
    (("memory", ("coin", "batch norm")), 17, True),
    (("sequential", ("while module", "decay"), "mean norm"), 5, False),
    (("repeat", ("coin", "tied"), 3, True), 12, True),
    (("parallel", ("memory", "noise"), ("shrink", "alpha dropout")), 8, False),
    (("cond", "alpha dropout", ("memory", "alpha dropout")), 2, True),
    (("coin", ("sequential", "decay", ("branch", "decay", "batch norm"))), 24, True),
]


@pytest.mark.parametrize(("plan", "n", "own"), KNOWN)
def test_plans_that_are_hard(agree, plan, n, own):
    x = ch.each(data(n, 3, WIDTH)) if own else data(3, WIDTH)
    agree(members_by(plan, n), x, tolerance=1e-8)


@given(plans, st.integers(1, 20), st.booleans(), st.integers(1, 4))
def test_any_module_in_any_number(agree, plan, n, own, batch):
    batch += "norm" in str(plan)  # alone, a norm over one row in training is an error
    x = ch.each(data(n, batch, WIDTH)) if own else data(batch, WIDTH)
    agree(members_by(plan, n), x, steps=2, tolerance=1e-8)


@given(plans, plans, st.integers(1, 9), st.booleans())
def test_several_inputs_and_nested_outputs(agree, one, two, n, own):
    def root(plan):
        return TwoInputs(*map(make, plan))

    gate = data(n, 3, WIDTH)
    inputs = ch.inputs(data(3, WIDTH), gate=ch.each(gate) if own else gate[0])
    agree(members_by((one, two), n, root), inputs, steps=2, tolerance=1e-8)


@given(plans, st.integers(1, 9))
def test_any_module_in_evaluation(agree, plan, n):
    modules = [module.eval() for module in members_by(plan, n)]
    agree(modules, data(3, WIDTH), steps=2, tolerance=1e-8)


@given(st.lists(plans, min_size=2, max_size=3), st.lists(st.integers(0, 2), min_size=2, max_size=8))
def test_members_of_any_structures(agree, kinds, order):
    modules = []
    for index, kind in enumerate(order):
        torch.manual_seed(index)
        modules.append(make(kinds[kind % len(kinds)]).double())
    agree(modules, data(3, WIDTH), steps=2, tolerance=1e-8)


@given(plans, st.integers(2, 6), st.data())
def test_any_parameters_frozen(agree, plan, n, frozen):
    modules = members_by(plan, n)
    for module in modules:
        for parameter in module.parameters():
            parameter.requires_grad_(frozen.draw(st.booleans()))
    agree(modules, data(3, WIDTH), steps=2, tolerance=1e-8)
