"""Every operation that is answered from keys: in a member, alone, and by its distribution."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.draws import rewrite
from chimera.draws.mode import Drawing, Key, Undrawable

N = 5
SIZE = 4096

_aten = torch.ops.aten

OPERATIONS = {
    "rand": lambda x: torch.rand(3, 4),
    "randn": lambda x: torch.randn(3, 4, dtype=torch.float64),
    "rand of no axes": lambda x: torch.rand(()),
    "rand complex": lambda x: torch.rand(3, dtype=torch.complex64),
    "rand_like": torch.rand_like,
    "rand_like of another dtype": lambda x: torch.rand_like(x, dtype=torch.float16),
    "randn_like": torch.randn_like,
    "bernoulli of probabilities": lambda x: torch.bernoulli(x.sigmoid()),
    "bernoulli p": lambda x: torch.bernoulli(x, 0.3),
    "bernoulli_": lambda x: x.clone().bernoulli_(0.3),
    "bernoulli_ alone": lambda x: x.clone().bernoulli_(),
    "bernoulli_ of probabilities": lambda x: x.clone().bernoulli_(x.sigmoid()),
    "bernoulli_ of integers": lambda x: x.long().bernoulli_(0.3),
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout of all": lambda x: F.dropout(x, 1.0),
    "dropout of none": lambda x: F.dropout(x, 0.0),
    "dropout1d": lambda x: F.dropout1d(x, 0.5),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "feature alpha dropout": lambda x: F.feature_alpha_dropout(x, 0.5, training=True),
    "native dropout": lambda x: torch.native_dropout(x, 0.3, True),
    "native dropout off": lambda x: torch.native_dropout(x, 0.3, False),
    "native dropout of all": lambda x: torch.native_dropout(x, 1.0, True),
    "uniform_": lambda x: x.clone().uniform_(),
    "uniform_ between": lambda x: x.clone().uniform_(-2, 5),
    "normal_": lambda x: x.clone().normal_(),
    "normal_ of mean and std": lambda x: x.clone().normal_(2.0, 0.5),
    "normal of means": lambda x: torch.normal(x, 0.5),
    "normal of stds": lambda x: torch.normal(2.0, x.abs()),
    "normal of both": lambda x: torch.normal(x, x.abs()),
    "normal of shapes that broadcast": lambda x: torch.normal(x, x.abs()[:, :1]),
    "exponential_": lambda x: x.clone().exponential_(),
    "exponential_ of a rate": lambda x: x.clone().exponential_(3.0),
    "randint": lambda x: torch.randint(7, (3, 4)),
    "randint from": lambda x: torch.randint(-3, 7, (3, 4), dtype=torch.int32),
    "randint of floats": lambda x: torch.randint(7, (3,), dtype=torch.float32),
    "randint_like": lambda x: torch.randint_like(x, 7),
    "randint_like from": lambda x: torch.randint_like(x, -3, 7, dtype=torch.int64),
    "multinomial": lambda x: x.softmax(-1).multinomial(2),
    "multinomial of one row": lambda x: x[0].softmax(-1).multinomial(3),
    "multinomial again": lambda x: x.softmax(-1).multinomial(9, replacement=True),
    "gumbel softmax": lambda x: F.gumbel_softmax(x, hard=True),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "rrelu_": lambda x: F.rrelu_(x.clone(), training=True),
    "distribution": lambda x: torch.distributions.Normal(x, 1.0).rsample(),
    "categorical": lambda x: torch.distributions.Categorical(logits=x).sample((3,)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.4),
    "two": lambda x: torch.rand_like(x) + torch.rand_like(x) * 10,
}


class Runs(nn.Module):
    """An operation on what is its own, or on what all members share."""

    def __init__(self, operation, own):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3, 4))
        self.operation, self.own = operation, own

    def forward(self, x):
        return self.operation(x * self.scale if self.own else x)


def stacked(name, own):
    torch.manual_seed(0)
    modules = [Runs(OPERATIONS[name], own) for _ in range(N)]
    x = torch.randn(3, 4)
    stack = ch.Stack(modules, seed=11)
    return stack, modules, x


def flat(value):
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_member_draws_what_it_draws_alone(name, own):
    stack, modules, x = stacked(name, own)
    together = [flat(stack(x)) for _ in range(2)]
    for index, module in enumerate(modules):
        for step in range(2):
            with ch.randomness(seed=11, member=index, step=step):
                alone = flat(module(x.clone()))
            for mine, other in zip(together[step], alone, strict=True):
                assert mine.dtype == other.dtype
                assert mine[index].shape == other.shape
                assert torch.allclose(mine[index], other, rtol=1e-6, atol=1e-7, equal_nan=True)


# Where torch.func itself has no way: an in-place draw on a fresh tensor, and slow paths.
BY_THEMSELVES = ("rrelu", "rrelu_", "gumbel softmax", "distribution")


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in BY_THEMSELVES])
def test_and_runs_as_one(name):
    stack, _, x = stacked(name, own=True)
    stack(x)
    assert not ch.explain(stack).alone


CONSTANT = ("dropout of all", "dropout of none", "native dropout off", "native dropout of all")


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in CONSTANT])
def test_no_two_members_and_no_two_steps_draw_alike(name):
    torch.manual_seed(0)
    operation = OPERATIONS[name]
    x = torch.randn(3, 4)
    seen = []
    for member in range(6):
        for step in range(4):
            with ch.randomness(seed=3, member=member, step=step):
                seen.append(str([part.tolist() for part in flat(operation(x))]))
    # Some masks and small integers meet by chance; a key used again would leave four or six.
    assert len(set(seen)) > 6


def test_every_operation_listed_is_tried(monkeypatch):
    hit = set()

    def counting(operator, inner):
        def run(*args):
            hit.add(operator)
            return inner(*args)

        return run

    monkeypatch.setattr(
        "chimera.draws.mode.REWRITES",
        {operator: counting(operator, inner) for operator, inner in rewrite.REWRITES.items()},
    )
    x = torch.randn(3, 4)
    for operation in OPERATIONS.values():
        with ch.randomness():
            operation(x)
    assert {str(o) for o in rewrite.REWRITES} - {str(o) for o in hit} == set()


@pytest.mark.parametrize("operator", sorted(rewrite.REWRITES, key=str))
def test_what_is_listed_draws_by_torchs_own_word(operator):
    assert torch.Tag.nondeterministic_seeded in operator.tags


def drawn(operation, seed=0):
    with ch.randomness(seed=seed):
        return operation().double()


BIG = (SIZE,)


@pytest.mark.parametrize(
    ("operation", "mean", "variance"),
    [
        (lambda: torch.rand(BIG), 0.5, 1 / 12),
        (lambda: torch.randn(BIG), 0, 1),
        (lambda: torch.empty(BIG).uniform_(-2, 4), 1, 3),
        (lambda: torch.empty(BIG).normal_(3, 2), 3, 4),
        (lambda: torch.normal(torch.full(BIG, 3.0), 2.0), 3, 4),
        (lambda: torch.normal(1.0, torch.full(BIG, 0.5)), 1, 0.25),
        (lambda: torch.empty(BIG).exponential_(2.0), 0.5, 0.25),
        (lambda: torch.bernoulli(torch.full(BIG, 0.2)), 0.2, 0.16),
        (lambda: torch.empty(BIG).bernoulli_(0.7), 0.7, 0.21),
        (lambda: F.dropout(torch.ones(BIG), 0.25), 1, 1 / 3),
        (lambda: torch.randint(0, 5, BIG), 2, 2),
        (lambda: torch.randint_like(torch.empty(BIG), 2, 6), 3.5, 1.25),
        (lambda: torch.tensor([0.1, 0.2, 0.7]).multinomial(SIZE, replacement=True), 1.6, 0.44),
        (lambda: torch.tensor([[0.0, 1.0, 3.0]]).expand(SIZE, 3).multinomial(1), 1.75, 0.1875),
        (lambda: F.rrelu(-torch.ones(BIG), 0.1, 0.3, training=True), -0.2, 0.04 / 12),
    ],
)
def test_mean_and_variance(operation, mean, variance):
    x = drawn(operation)
    size = x.numel()
    assert abs(x.mean() - mean) < 4 * math.sqrt(variance / size)
    assert abs(x.var() - variance) < 6 * variance * math.sqrt(2 / size) + 0.02 * variance


def test_multinomial_without_replacement():
    weights = torch.tensor([0.5, 0.0, 0.3, 0.2]).expand(SIZE, 4)
    x = drawn(lambda: weights.multinomial(3))
    assert torch.equal(x.sort(dim=1).values, torch.tensor([0.0, 2, 3]).double().expand(SIZE, 3))
    first = torch.bincount(x[:, 0].long(), minlength=4) / SIZE
    assert (first - weights[0]).abs().max() < 4 * 0.5 / math.sqrt(SIZE)
    second_after_0 = x[x[:, 0] == 0][:, 1]
    assert abs((second_after_0 == 2).double().mean() - 0.6) < 4 * 0.5 / math.sqrt(SIZE / 2)


def test_dropout_scales_what_it_keeps():
    x = torch.linspace(1, 2, 100)
    with ch.randomness():
        y = F.dropout(x, 0.2)
    kept = y != 0
    assert torch.allclose(y[kept], x[kept] / 0.8)
    with ch.randomness():
        out, mask = torch.native_dropout(x, 0.2, True)
    assert torch.equal(out != 0, mask)


def test_gradients_pass_through_draws():
    torch.manual_seed(1)
    layer = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.RReLU()).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def forward(x):
        with ch.randomness(seed=2):
            return layer(x)

    assert torch.autograd.gradcheck(forward, (x,))


# What is not listed.

HIDDEN = {
    "randperm": lambda x: x[:, torch.randperm(4)],
    "cauchy_": lambda x: x.clone().cauchy_(),
    "geometric_": lambda x: x.clone().geometric_(0.5),
    "log_normal_": lambda x: x.clone().log_normal_(),
    "poisson": lambda x: torch.poisson(x.abs() * 9),
    "binomial": lambda x: torch.binomial(torch.full_like(x, 9), x.sigmoid()),
    "random_": lambda x: x.clone().random_(0, 100),
    "gamma": lambda x: torch.distributions.Gamma(x.abs() + 1, 1.0).sample(),
    "normal of numbers": lambda x: torch.normal(0.0, 1.0, (3, 4)),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_not_listed_runs_one_by_one_from_the_same_keys(name):
    modules = [Runs(HIDDEN[name], True) for _ in range(N)]
    stack, x = ch.Stack(modules, seed=11), torch.randn(3, 4)
    state = torch.get_rng_state()
    out = [stack(x), stack(x)]
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(out[0], out[1])
    for index, module in enumerate(modules):
        for step in range(2):
            with ch.randomness(seed=11, member=index, step=step):
                assert torch.equal(module(x), out[step][index])
    if name != "normal of numbers":
        rows = ch.explain(stack).alone
        assert rows
        assert "draw" in rows[0].reason or "vmap" in rows[0].reason


@pytest.mark.parametrize("name", HIDDEN)
def test_nor_do_they_repeat_inside_randomness(name):
    """A stack inside ``randomness`` is not answered by the outer key."""
    modules = [Runs(HIDDEN[name], True) for _ in range(3)]
    stack, x = ch.Stack(modules, seed=11), torch.randn(3, 4)
    with ch.randomness(seed=5, step=9):
        out = stack(x)
    for index, module in enumerate(modules):
        with ch.randomness(seed=5, member=index, step=9):
            assert torch.equal(module(x), out[index])


def test_a_draw_without_a_member_axis_is_refused():
    with (
        Drawing(Key(0, 0), [0, 1, 2], several=True),
        pytest.raises(Undrawable, match="no axis of 3"),
    ):
        torch.rand(4, 3)
    with Drawing(Key(0, 0), [0, 1, 2], several=True):
        assert torch.rand(3, 4).shape == (3, 4)


def test_a_draw_that_hides_is_refused():
    with (
        Drawing(Key(0, 0), [0, 1], several=True) as drawing,
        pytest.raises(Undrawable, match="randperm.default hides its draws"),
    ):
        torch.randperm(2)
    assert isinstance(drawing.refused, Undrawable)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.scaled_dot_product_attention(x, x, x),
        F.rrelu,
        lambda x: F.rrelu(x, 0.1, 0.2, False),
        lambda x: F.rrelu_(x.clone()),
        lambda x: torch.native_dropout(x, 0.5, False)[0],
        lambda x: F.dropout(x, 0.5, training=False),
    ],
)
def test_what_does_not_draw_takes_no_place(operation):
    x = torch.randn(2, 3, 4)
    with ch.randomness():
        first = torch.rand(3)
    with ch.randomness():
        state = torch.get_rng_state()
        value = operation(x)
        assert torch.allclose(value, operation(x))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(torch.rand(3), first)
