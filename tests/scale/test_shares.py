"""Shares against every way of giving the members out."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from chimera.scale.shares import shares


@st.composite
def members(draw):
    """Each member's group and cost: the members of a group cost the same."""
    groups = draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    prices = draw(st.lists(st.integers(1, 9).map(float), min_size=3, max_size=3))
    return groups, [prices[group] for group in groups]


def dearest(costs, held):
    return max(sum(costs[position] for position in mine) for mine in held)


def best(costs, ranks):
    """The least that the dearest rank can hold."""
    ways = itertools.product(range(ranks), repeat=len(costs))
    return min(
        max(sum(c for c, rank in zip(costs, way, strict=True) if rank == r) for r in range(ranks))
        for way in ways
    )


@given(members(), st.integers(1, 3))
def test_every_member_is_held_once_and_no_rank_holds_much_more_than_it_must(given_members, ranks):
    groups, costs = given_members
    held = shares(costs, groups, ranks)
    assert len(held) == ranks
    assert sorted(itertools.chain.from_iterable(held)) == list(range(len(costs)))
    # R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", 1969, theorem 3.
    assert dearest(costs, held) <= (4 / 3 - 1 / (3 * ranks)) * best(costs, ranks) + 1e-9


@given(members(), st.integers(1, 4))
def test_a_share_of_a_group_is_a_run_of_it(given_members, ranks):
    groups, costs = given_members
    for mine in shares(costs, groups, ranks):
        for group in set(groups):
            whole = [position for position, of in enumerate(groups) if of == group]
            places = [whole.index(position) for position in mine if groups[position] == group]
            assert not places or places == list(range(places[0], places[0] + len(places)))


def test_shares_follow_cost_not_count():
    assert shares([6.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0, 1, 1, 1, 1, 1, 1], 2) == [
        [0],
        [1, 2, 3, 4, 5, 6],
    ]


def test_more_ranks_than_members_leave_some_idle():
    assert shares([1.0, 1.0], [0, 0], 4) == [[0], [1], [], []]
