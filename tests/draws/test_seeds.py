import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.draws.seeds import _WORDS, derive, forked, generator_state


def draws():
    return torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()


def test_the_hash_is_fixed():
    """Networks drawn by an earlier version must be drawn again by a later one."""
    assert derive(0, "hidden") == DERIVED["hidden"]
    assert derive(0, 7) == DERIVED[7]
    assert derive(-1, "a", "b") == DERIVED["a", "b"]


DERIVED = {"hidden": 5358047796378804843, 7: 16942736459237818525, ("a", "b"): 2244015347627734559}

names = st.lists(st.one_of(st.text(), st.integers()), max_size=3).map(tuple)


@given(st.integers(), names, st.integers(), names)
def test_different_names_or_seeds_give_different_seeds(seed, path, other_seed, other):
    first, second = derive(seed, *path), derive(other_seed, *other)
    assert 0 <= first < 2**64
    assert (first == second) == ((seed, path) == (other_seed, other))


def test_a_number_and_its_text_differ():
    assert derive(0, 1) != derive(0, "1")
    assert derive(0, "ab", "c") != derive(0, "a", "bc")


@pytest.mark.parametrize("seed", [1.0, "1", None, True])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="seed must be an int; got"):
        derive(seed, "path")


def test_forked_generators_are_seeded_and_given_back():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = draws()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    with forked(derive(0, "a")):
        inside = draws()
    assert draws() == expected
    with forked(derive(0, "a")):
        assert draws() == inside
    with forked(derive(0, "b")):
        other = draws()
    assert all(left != right for left, right in zip(inside, other, strict=True))


def test_all_64_bits_reach_every_generator():
    with forked(1):
        low = draws()
    with forked(1 + (1 << 40)):
        high = draws()
    assert all(left != right for left, right in zip(low, high, strict=True))


def test_generators_are_given_back_after_an_error():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)

    def fail() -> None:
        with forked(5):
            torch.rand(7)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.rand(2), expected)


def test_torch_keeps_the_generators_words_where_we_put_them():
    source, target = torch.Generator().manual_seed(5), torch.Generator().manual_seed(7)
    state = target.get_state()
    assert state.numel() == 5056
    state.view(torch.int64)[_WORDS] = source.get_state().view(torch.int64)[_WORDS]
    target.set_state(state)
    assert torch.equal(torch.rand(2000, generator=target), torch.rand(2000, generator=source))


def test_a_seeded_generator_is_uniform_and_uncorrelated():
    with forked(0):
        first = torch.rand(100_000, dtype=torch.float64)
    with forked(1):
        second = torch.rand(100_000, dtype=torch.float64)
    for drawn in (first, second):
        assert abs(drawn.mean() - 0.5) < 5 * (1 / 12 / 1e5) ** 0.5
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 5 / 1e5**0.5
    assert not torch.equal(generator_state(0), generator_state(2**32))


def test_a_default_device_changes_nothing():
    with forked(3):
        expected = torch.rand(2)
    with torch.device("meta"), forked(3):
        assert torch.equal(torch.rand(2, device="cpu"), expected)
