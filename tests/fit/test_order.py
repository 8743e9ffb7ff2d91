"""Every member's own order: a permutation, keyed by (seed, member, epoch) alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.draws.counter import member_keys
from chimera.fit.data import Part
from chimera.fit.order import batches, order

seeds = st.integers(-(2**70), 2**70)
epochs = st.integers(0, 2**40)
sizes = st.integers(1, 200)


@given(seed=seeds, epoch=epochs, samples=sizes, members=st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_each_row_is_a_permutation(seed: int, epoch: int, samples: int, members: int) -> None:
    rows = order(member_keys(seed, range(members)), epoch, samples)
    assert rows.shape == (members, samples)
    assert torch.equal(rows.sort(1).values, torch.arange(samples).expand(members, samples))


@given(seed=seeds, epoch=epochs, samples=sizes, member=st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_a_member_alone_has_the_order_it_has_among_others(
    seed: int, epoch: int, samples: int, member: int
) -> None:
    alone = order(member_keys(seed, [member]), epoch, samples)[0]
    others = member_keys(seed, [member + 3, member, 0, 7])
    assert torch.equal(order(others, epoch, samples)[1], alone)


@given(seed=seeds, epoch=epochs)
@settings(deadline=None, max_examples=50)
def test_orders_differ_between_members_epochs_and_seeds(seed: int, epoch: int) -> None:
    here = order(member_keys(seed, range(3)), epoch, 50)
    later = order(member_keys(seed, range(3)), epoch + 1, 50)
    elsewhere = order(member_keys(seed + 1, range(3)), epoch, 50)
    rows = torch.cat([here, later, elsewhere]).tolist()
    assert len({tuple(row) for row in rows}) == 9


def test_every_place_is_equally_likely() -> None:
    rows = order(member_keys(0, range(20_000)), 0, 8)
    counts = torch.stack([torch.bincount(column, minlength=8) for column in rows.T])
    expected = 20_000 / 8
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 90  # 49 degrees of freedom: 90 is beyond the 0.9997 quantile


@given(samples=st.integers(1, 30), members=st.integers(1, 4), batch_size=st.integers(1, 40))
@settings(deadline=None, max_examples=50)
def test_the_batches_of_an_epoch_are_each_members_samples_in_its_order(
    samples: int, members: int, batch_size: int
) -> None:
    part = Part(torch.arange(samples * 6.0).view(samples, 2, 3), torch.arange(samples))
    rows = order(member_keys(0, range(members)), 0, samples)
    seen = list(batches(part, rows, batch_size))
    assert [batch.y.shape[1] for batch in seen[:-1]] == [batch_size] * (len(seen) - 1)
    assert torch.equal(torch.cat([batch.y for batch in seen], 1), rows)
    for member in range(members):
        given_out = torch.cat([batch.x[member] for batch in seen])
        assert torch.equal(given_out, part.x[rows[member]])
