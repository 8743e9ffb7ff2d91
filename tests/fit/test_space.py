"""Learning rates per member."""

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import chimera as ch
from chimera.fit.space import per_member


@given(seed=st.integers(), member=st.integers(0, 2**40), low=st.floats(1e-8, 1e-3))
@settings(deadline=None, max_examples=50)
def test_a_member_draws_the_same_whoever_stands_beside_it(
    seed: int, member: int, low: float
) -> None:
    space = ch.LogUniform(low, 1e-1)
    alone = space.draw("lr", seed, [member])
    among = space.draw("lr", seed, [member + 1, member, 5])
    assert alone[0] == among[1]
    assert low <= alone[0] <= 1e-1


def test_the_logarithm_is_drawn_evenly() -> None:
    drawn = ch.LogUniform(1e-4, 1e-1).draw("lr", 0, range(10_000))
    assert drawn.dtype == torch.float64
    counts = torch.histc(drawn.log10(), 10, -4, -1)
    assert counts.sum() == 10_000
    assert ((counts - 1000) ** 2 / 1000).sum() < 30  # 9 degrees of freedom


def test_names_seeds_and_members_draw_apart() -> None:
    space = ch.LogUniform(1e-4, 1e-1)
    drawn = torch.cat(
        [space.draw(name, seed, range(50)) for name in ("lr", "eps") for seed in (0, 1)]
    )
    assert len(drawn.unique()) == 200


def test_one_value_and_values_one_by_one() -> None:
    assert per_member("lr", 0.5, 0, range(3)).tolist() == [0.5] * 3
    assert per_member("lr", [1, 2, 3], 0, range(3)).tolist() == [1, 2, 3]
    assert per_member("lr", torch.tensor([1.0, 2.0]), 0, range(2)).tolist() == [1, 2]
    assert per_member("lr", ch.LogUniform(3.0, 3.0), 0, range(2)).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1.0, 2.0], ValueError, "3 members need one number or 3 numbers, got shape [2]"),
        ([[1.0], [2.0], [3.0]], ValueError, "got shape [3, 1]"),
        ([1.0, math.nan, 2.0], ValueError, "got nan for member 1"),
        (-1.0, ValueError, "lr must be finite and not negative, got -1.0 for member 0"),
        ("fast", TypeError, "lr must be a number, one number per member or a LogUniform, got str"),
        ([1.0, None, 2.0], TypeError, "lr must be a number"),
    ],
)
def test_other_values_are_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        per_member("lr", value, 0, range(3))


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1), (2, 1), (1, math.inf), (math.nan, 1)])
def test_a_range_without_a_logarithm_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"expected 0 < low <= high"):
        ch.LogUniform(*bounds)


def test_a_bound_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match="high must be a number, got '1'"):
        ch.LogUniform(0.1, "1")  # type: ignore[arg-type]
