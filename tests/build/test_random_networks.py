"""Random networks: lazy, nested, with ties, conditions, constants and dropout."""

import warnings

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import chimera as ch
from chimera.build.datafree import is_uninitialized
from chimera.build.record import specified


class Branch(nn.Module):
    def __init__(self, then, otherwise):
        super().__init__()
        self.then, self.otherwise = then, otherwise

    def forward(self, x):
        return self.then(x) if x.sum() > 0 else self.otherwise(x)


class Loop(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.width = inner, nn.LazyLinear(8)

    def forward(self, x):
        x = self.width(x)
        while x.abs().sum() > 1:
            x = x / (2 + self.inner(x).abs().sum())
        return x


class Twice(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.narrow, self.inner = nn.LazyLinear(6), inner
        self.wide = nn.LazyLinear(6)

    def forward(self, x):
        x = self.narrow(x)
        return x + self.wide(self.inner(x)) + self.wide(self.inner(x))


class Constant(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.value, self.layer = torch.rand(size, size), nn.LazyLinear(size)

    def forward(self, x):
        return self.layer(x) @ self.value


leaves = st.one_of(
    st.builds(lambda n: lambda: nn.LazyLinear(n), st.integers(1, 9)),
    st.builds(lambda n: lambda: Constant(n), st.integers(1, 5)),
    st.sampled_from([nn.ReLU, nn.Dropout, nn.LazyBatchNorm1d]),
)
plans = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda made: lambda: nn.Sequential(*(m() for m in made))),
        st.builds(
            lambda a, b: (
                lambda: Branch(
                    nn.Sequential(a(), nn.LazyLinear(4)), nn.Sequential(b(), nn.LazyLinear(4))
                )
            ),
            inner,
            inner,
        ),
        inner.map(lambda a: lambda: Loop(a())),
        inner.map(lambda a: lambda: Twice(a())),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(plans, st.integers(0, 2**64), st.integers(1, 9))
def test_a_random_network_is_built(plan, seed, features):
    spec = ch.spec("batch", features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ch.ChimeraWarning)
        one = ch.build(plan(), spec, seed=seed)
        torch.manual_seed(seed % 1000)
        two = ch.build(plan(), ch.spec(4, features), seed=seed)
    found = ch.shapes(plan, spec)
    state, other = one.state_dict(), two.state_dict()
    constants = {name for name, value in state.items() if name.endswith("value")}
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert not is_uninitialized(value)
        assert name in constants or torch.equal(value, other[name])
    assert found.parameters == sum(parameter.numel() for parameter in one.parameters())
    x = torch.rand(5, features)
    output = one.double()(x.double())
    expected = found.output
    assert tuple(output.shape) == expected.sized({"batch": 5})
    assert specified(output).dtype == torch.float64
