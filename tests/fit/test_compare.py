"""Members trained one by one: the same figures, an agreement that can fail, mistakes told."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import chimera as ch
from chimera.fit import MLP, Data
from chimera.fit.agreement import difference
from chimera.fit.compare import compare_loop


def blobs() -> Data:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return ch.data(x, (x[:, 0] > 0).long())


class Normed(nn.Module):
    """Batch norm, dropout, a shared layer and a ``while``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.shared = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.shared(torch.relu(self.shared(self.norm(x)))))
        while x.abs().mean() > 0.3:
            x = x / 2
        return self.out(x)


FACTORIES: list[Callable[[], nn.Module]] = [
    functools.partial(MLP, 4, 2, hidden=6),
    functools.partial(MLP, 4, 2, hidden=6, dropout=0.4),
    Normed,
    lambda: nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(2)),
]
OPTIMIZERS: list[Any] = [
    ch.optim.AdamW,
    functools.partial(ch.optim.SGD, momentum=torch.tensor([0.9, 0.5, 0.0]), weight_decay=0.1),
    functools.partial(ch.optim.Adam, betas=(0.8, [0.99, 0.999, 0.9])),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factory", FACTORIES)
def test_members_of_a_stack_are_those_of_a_loop(factory: Any, optimizer: Any) -> None:
    modules = [factory() for _ in range(3)]
    result = ch.fit(
        modules,
        blobs(),
        lr=ch.LogUniform(1e-3, 1e-2),
        optimizer=optimizer,
        epochs=2,
        batch_size=8,
    )
    comparison = compare_loop(modules, result, 2)
    assert comparison.agrees
    assert comparison.error < 1e-6
    assert comparison.steps == 5
    assert comparison.members == [0, 1]
    assert comparison.stack_seconds > 0
    assert comparison.loop_seconds > 0
    if "Dropout" not in str(modules[0]):
        for row in comparison.table:
            assert row["loop"] == pytest.approx(row["stack"], abs=0.1)


@st.composite
def networks(draw: st.DrawFn) -> Callable[[], nn.Module]:
    """A chain of layers of random widths, norms, activations and dropout, one layer used twice."""
    widths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    norm = draw(st.sampled_from([nn.Identity, nn.BatchNorm1d, nn.LayerNorm]))
    activation = draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU]))
    dropout = draw(st.sampled_from([0.0, 0.3]))
    twice = draw(st.booleans())

    def network() -> nn.Module:
        layers: list[nn.Module] = []
        before = 4
        for width in widths:
            layers += [nn.Linear(before, width), norm(width), activation(), nn.Dropout(dropout)]
            before = width
        shared = nn.Linear(before, before)
        layers += [shared, activation(), shared] if twice else []
        return nn.Sequential(*layers, nn.Linear(before, 2))

    return network


@given(factory=networks(), members=st.integers(2, 4), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=10)
def test_networks_nobody_chose_agree_with_a_loop(factory: Any, members: int, seed: int) -> None:
    modules = ch.instances(factory, members, seed=seed)
    result = ch.fit(modules, blobs(), seed=seed, epochs=1, batch_size=8, lr=1e-2)
    assert compare_loop(modules, result, members).error < 1e-6


def test_a_stack_that_learns_otherwise_does_not_agree() -> None:
    class Wrong(ch.optim.SGD):
        """Takes a little more than the step."""

        def step(self, *args: Any, **kwargs: Any) -> Any:
            super().step(*args, **kwargs)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter[1:] *= 1 + 1e-5

    modules = [MLP(4, 2, hidden=6) for _ in range(2)]
    result = ch.fit(modules, blobs(), epochs=1, batch_size=8)
    wrong = replace(result, settings=replace(result.settings, optimizer=Wrong))
    assert compare_loop(modules, wrong, 1).agrees
    assert not compare_loop(modules, wrong, 2).agrees


def test_modules_and_result_stay_as_they_are() -> None:
    modules = [MLP(4, 2, hidden=6) for _ in range(2)]
    before = [p.clone() for m in modules for p in m.parameters()]
    result = ch.fit(modules, blobs(), epochs=1, batch_size=8)
    trained = [p.clone() for p in result.stack.parameters()]
    compare_loop(modules, result, 2)
    after = [p for m in modules for p in m.parameters()]
    assert all(map(torch.equal, before, after))
    assert all(map(torch.equal, trained, result.stack.parameters()))


def test_its_text_says_what_was_measured() -> None:
    modules = [MLP(4, 2, hidden=6) for _ in range(3)]
    result = ch.fit(modules, blobs(), epochs=1, batch_size=8)
    text = str(compare_loop(modules, result, 2))
    assert "2 of 3 members trained one by one with torch.optim.AdamW(fused=True)" in text
    assert "1 epochs of the same batches" in text
    assert "gave the same weights" in text


def test_differences_are_relative_and_see_what_is_not_finite() -> None:
    one = {"a": torch.tensor([1.0, 100.0])}
    assert difference(one, {"a": torch.tensor([2.0, 100.0])}) == pytest.approx(0.01)
    assert difference(one, {"a": torch.tensor([2.0, 100.0])}, way=1000) == pytest.approx(0.001)
    assert difference(one, {"a": torch.tensor([1.0, float("nan")])}) == float("inf")
    both = {"a": torch.tensor([1.0, float("nan")])}
    assert difference(both, both) == 0


@pytest.mark.parametrize("k", [0, 3, True, 1.0])
def test_how_many_must_be_among_the_members(k: Any) -> None:
    modules = [MLP(4, 2, hidden=6) for _ in range(2)]
    result = ch.fit(modules, blobs(), epochs=1, batch_size=8)
    with pytest.raises(ValueError, match="k must be between 1 and 2"):
        compare_loop(modules, result, k)


def test_parameter_groups_are_not_for_a_loop() -> None:
    modules = [MLP(4, 2, hidden=6) for _ in range(2)]
    groups = [{"params": "**.bias", "weight_decay": 0.0}]
    optimizer = functools.partial(ch.optim.AdamW, groups=groups)
    result = ch.fit(modules, blobs(), optimizer=optimizer, epochs=1, batch_size=8)
    with pytest.raises(ValueError, match="cannot have the parameter groups"):
        compare_loop(modules, result, 1)


def test_other_modules_than_the_results_are_refused() -> None:
    modules = [MLP(4, 2, hidden=6) for _ in range(2)]
    result = ch.fit(modules, blobs(), epochs=1, batch_size=8)
    with pytest.raises(ValueError, match="those of the result, 2, got 1"):
        compare_loop(modules[:1], result, 1)
    with pytest.raises(TypeError, match="a Stack was trained in place"):
        compare_loop(result.stack, result, 1)
