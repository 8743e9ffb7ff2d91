"""The generator: against its definition in plain integers, frozen values, and its statistics.

Every number here is a pure function of keys, so that what passes once passes always.
"""

import hashlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.draws import counter

MASK = 2**64 - 1


def squares(key, count, rounds):
    """Widynski's Squares, arXiv:2004.06278, listings of section 4, in Python integers."""
    y = x = (count * key) & MASK
    z = (y + key) & MASK
    for add in (y, z, y):
        x = (x * x + add) & MASK
        x = (x >> 32) | (x << 32) & MASK
    t = (x * x + z) & MASK
    if rounds == 4:
        return t >> 32
    x = (t >> 32) | (t << 32) & MASK
    return t ^ (((x * x + y) & MASK) >> 32)


def splitmix(z):
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014; variant 13 of Stafford)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def signed(value):
    return value - 2**64 if value >= 2**63 else value


def keys_of(*ids, seed=0, step=0, call=0):
    return counter.derive(counter.member_keys(seed, ids), step, call)


integers64 = st.integers(-(2**63), 2**63 - 1)


@given(integers64, st.integers(1, 9))
def test_bits_are_those_of_the_paper(key, count):
    keys = torch.tensor([key | 1, 3])
    wide, narrow = counter.bits64(keys, count), counter.bits32(keys, count)
    for place in range(count):
        assert wide[0, place].item() & MASK == squares((key | 1) & MASK, place, 5)
        assert narrow[0, place].item() == squares((key | 1) & MASK, place, 4)


@given(integers64, st.lists(st.integers(0, 2**40), max_size=3))
def test_keys_are_mixed_by_splitmix(key, parts):
    expected = key & MASK
    for part in parts:
        expected = splitmix((expected + (part + 1) * 0x9E3779B97F4A7C15) & MASK)
    (derived,) = counter.derive(torch.tensor([key]), *parts).tolist()
    assert derived == signed(expected | 1)


def test_member_keys_are_hashes_of_seed_and_id():
    digest = hashlib.blake2b(b"5,7", digest_size=8).digest()
    assert counter.member_keys(5, [7]).tolist() == [int.from_bytes(digest, "little", signed=True)]
    many = torch.cat([counter.member_keys(seed, range(500)) for seed in (-1, 0, 1, 2**80)])
    assert many.unique().numel() == 2000


@given(st.permutations(range(6)), st.integers(1, 40))
def test_a_row_depends_on_its_own_key_alone(order, count):
    whole = counter.bits64(keys_of(*range(6)), count)
    assert torch.equal(counter.bits64(keys_of(*order), count), whole[list(order)])
    assert torch.equal(counter.bits64(keys_of(3), count)[0], whole[3])


DRAWS = {
    "uniform": lambda keys, n: counter.uniform(keys, (n,)),
    "normal": lambda keys, n: counter.normal(keys, (n,)),
    "exponential": lambda keys, n: counter.exponential(keys, (n,)),
    "bernoulli": lambda keys, n: counter.bernoulli(keys, 0.3, (n,)),
    "integers": lambda keys, n: counter.integers(keys, -3, 9, (n,)),
    "complex": lambda keys, n: counter.normal(keys, (n,), torch.complex64),
    "permutations": counter.permutations,
}


@pytest.mark.parametrize("name", [*DRAWS])
@pytest.mark.parametrize("count", [1, 7, 33, 257])
def test_the_place_in_a_row_or_in_memory_changes_nothing(name, count):
    """Vector units round the last numbers of a row by other means than the first."""
    draw = DRAWS[name]
    whole = draw(keys_of(*range(9)), count)
    for member in range(9):
        assert torch.equal(draw(keys_of(member), count)[0], whole[member])
    if name not in ("permutations",):
        longer = draw(keys_of(*range(9)), count + 5)
        assert torch.equal(longer[:, :count], whole)


GOLDEN = {
    "bits64": [-4323202525315885666, -2530245100900341029, -7252502594250155500],
    "bits32": [3288393269, 3705848700, 2606362448],
    "uniform": [0.7656387214978848, 0.8628351382341523, 0.6068410465678612],
    "normal": [-0.5471818173033953, -0.5107090494970424, 0.7259118244869335],
    "exponential": [0.2670448634532206, 0.1475316394802846, 0.49948838948462126],
    "integers": [975, 293, 58],
    "permutations": [3, 2, 0, 1, 4],
}


def golden(name):
    keys = keys_of(5, seed=3, step=2, call=1)
    return {
        "bits64": lambda: counter.bits64(keys, 3),
        "bits32": lambda: counter.bits32(keys, 3),
        "uniform": lambda: counter.uniform(keys, (3,), torch.float64),
        "normal": lambda: counter.normal(keys, (3,), torch.float64),
        "exponential": lambda: counter.exponential(keys, (3,), torch.float64),
        "integers": lambda: counter.integers(keys, 0, 1000, (3,)),
        "permutations": lambda: counter.permutations(keys, 5),
    }[name]()[0].tolist()


@pytest.mark.parametrize("name", [*GOLDEN])
def test_numbers_that_people_have_trained_with_do_not_change(name):
    assert golden(name) == pytest.approx(GOLDEN[name], rel=1e-12, abs=0)


# Statistics. The numbers are what they are: each bound is about four standard deviations.

N = 1 << 16


def chi_square(counts):
    expected = counts.sum() / counts.numel()
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    freedom = counts.numel() - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)  # about standard normal


@pytest.mark.parametrize("byte", range(8))
def test_every_byte_is_uniform(byte):
    bits = counter.bits64(keys_of(0), N)[0]
    counts = torch.bincount(((bits >> (8 * byte)) & 255), minlength=256).double()
    assert abs(chi_square(counts)) < 4


@pytest.mark.parametrize("byte", range(4))
def test_every_byte_of_the_short_variant_is_uniform(byte):
    counts = torch.bincount((counter.bits32(keys_of(1), N)[0] >> (8 * byte)) & 255, minlength=256)
    assert abs(chi_square(counts.double())) < 4


def test_bits_of_neighbouring_counters_flip_independently():
    bits = counter.bits64(keys_of(2), 4096)[0]
    changed = bits[1:] ^ bits[:-1]
    flips = torch.stack([((changed >> place) & 1).double().mean() for place in range(64)])
    assert (flips - 0.5).abs().max() < 4.5 * 0.5 / math.sqrt(4095)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"ids": [0]}, {"ids": [1]}),
        ({"ids": [0], "seed": 0}, {"ids": [0], "seed": 1}),
        ({"ids": [0], "step": 0}, {"ids": [0], "step": 1}),
        ({"ids": [0], "call": 0}, {"ids": [0], "call": 1}),
        ({"ids": [0], "step": 1, "call": 0}, {"ids": [0], "step": 0, "call": 1}),
        ({"ids": [0], "call": 0}, {"ids": [0], "call": 1 << 32}),
    ],
)
@pytest.mark.parametrize("lag", [0, 1, 2])
def test_neighbouring_keys_are_not_correlated(one, other, lag):
    def numbers(ids, **rest):
        return counter.uniform(keys_of(*ids, **rest), (N,), torch.float64)[0]

    a, b = numbers(**one)[lag:], numbers(**other)[: N - lag]
    correlation = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
    assert abs(correlation) < 4 / math.sqrt(N)


def test_first_numbers_of_many_keys_are_uniform_and_independent():
    numbers = counter.uniform(keys_of(*range(8192)), (2,), torch.float64)
    assert abs(chi_square(torch.histc(numbers[:, 0], 64, 0, 1))) < 4
    assert abs(torch.corrcoef(numbers.T)[0, 1].item()) < 4 / math.sqrt(8192)
    steps = torch.cat(
        [counter.uniform(keys_of(0, step=s), (1,), torch.float64) for s in range(4096)]
    )
    assert abs(chi_square(torch.histc(steps, 32, 0, 1))) < 4
    assert abs(torch.corrcoef(torch.stack([steps[1:, 0], steps[:-1, 0]]))[0, 1]) < 4 / 64


def test_no_two_uses_share_a_key():
    keys = [
        counter.derive(counter.member_keys(0, range(20)), step, call)
        for step in range(20)
        for call in [*range(20), 1 << 32, 2 << 32]
    ]
    assert torch.cat(keys).unique().numel() == 20 * 20 * 22


def test_normal():
    x = counter.normal(keys_of(4), (N,), torch.float64)[0]
    assert abs(x.mean()) < 4 / math.sqrt(N)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / N)
    assert abs((x**3).mean()) < 4 * math.sqrt(15 / N)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / N)
    cumulated = torch.special.ndtr(x.sort().values)
    steps = torch.arange(1, N + 1, dtype=torch.float64) / N
    assert (cumulated - steps).abs().max() < 1.95 / math.sqrt(N)  # Kolmogorov and Smirnov, 0.1%
    assert x.abs().max() < 6.7


def test_uniform():
    x = counter.uniform(keys_of(5), (N,), torch.float64)[0]
    assert abs(x.mean() - 0.5) < 4 / math.sqrt(12 * N)
    assert abs(x.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / N)
    assert x.min() >= 0
    assert x.max() < 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_uniform_stays_below_one_and_is_cut_off(dtype):
    x = counter.uniform(keys_of(6), (N,), dtype)[0]
    exact = counter.uniform(keys_of(6), (N,), torch.float64)[0]
    assert x.dtype == dtype
    assert x.max() < 1
    assert (x.double() <= exact).all()
    assert (exact - x.double()).max() <= torch.finfo(dtype).eps


def test_exponential():
    x = counter.exponential(keys_of(7), (N,), torch.float64)[0]
    assert x.min() > 0
    assert abs(x.mean() - 1) < 4 / math.sqrt(N)
    assert abs(x.var() - 1) < 4 * math.sqrt(8 / N)


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.3, 0.5, 0.999, 1.0])
def test_bernoulli(p):
    drawn = counter.bernoulli(keys_of(8), p, (N,))[0]
    assert drawn.dtype == torch.bool
    assert abs(drawn.double().mean() - p) <= 4 * math.sqrt(p * (1 - p) / N)
    same = counter.bernoulli(keys_of(8), torch.full((1, N), p, dtype=torch.float64), (N,))[0]
    assert torch.equal(drawn, same)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 7), (-50, 50), (-(2**62), 2**62), (-(2**63), 2**63 - 1)]
)
def test_integers(low, high):
    x = counter.integers(keys_of(9), low, high, (N,))[0]
    assert low <= x.min()
    assert x.max() < high
    middle = (low + high) / 2
    spread = 4 * (high - low) / math.sqrt(12 * N)
    assert abs(x.double().mean().item() - middle + 0.5) <= spread + 1
    if high - low <= 100:
        counts = torch.bincount(x - low, minlength=high - low).double()
        assert high - low == 1 or abs(chi_square(counts)) < 4


def test_complex_numbers():
    z = counter.normal(keys_of(10), (N,), torch.complex128)[0]
    assert abs(z.abs().square().mean() - 1) < 4 / math.sqrt(N)
    assert abs(torch.corrcoef(torch.stack([z.real, z.imag]))[0, 1]) < 4 / math.sqrt(N)
    u = counter.uniform(keys_of(10), (N,), torch.complex64)[0]
    assert abs(u.imag.mean() - 0.5) < 0.01


def test_permutations_are_permutations_and_all_of_them_come():
    drawn = counter.permutations(keys_of(*range(2400)), 4)
    assert torch.equal(drawn.sort(dim=1).values, torch.arange(4).expand(2400, 4))
    names = (drawn * torch.tensor([64, 16, 4, 1])).sum(1)
    _, counts = names.unique(return_counts=True)
    assert len(counts) == 24
    assert abs(chi_square(counts.double())) < 4


def test_nothing_of_no_keys_and_of_no_length():
    assert counter.uniform(keys_of(), (3,)).shape == (0, 3)
    assert counter.normal(keys_of(1, 2), (0, 3)).shape == (2, 0, 3)
    assert counter.uniform(keys_of(1), ()).shape == (1,)
