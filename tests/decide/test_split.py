"""Conditions of many members: read for all, recorded, replayed; parts of those that differ."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.decide.split import (
    Decisions,
    Differ,
    parts_of,
    per_member,
    requires_grad,
    versions,
)
from chimera.decide.watch import Watch

NUMBERS = torch.tensor([1.0, -1.0, 2.0, float("nan"), 0.0])


def inside(function, *tensors, **options):
    """What ``function`` gave inside vmap, beside what vmap hands out."""
    given = []

    def run(*tensors):
        given.append(function(*tensors))
        return torch.zeros(())

    torch.vmap(run, **options)(*tensors)
    return given[0]


class TestReading:
    def test_the_numbers_of_every_member(self):
        values = inside(per_member, NUMBERS)
        assert values[:3] == [1.0, -1.0, 2.0]
        assert math.isnan(values[3])

    def test_on_any_axis_and_of_any_dtype(self):
        table = torch.arange(6).view(2, 3)
        assert inside(per_member, table, in_dims=1) == [[0, 3], [1, 4], [2, 5]]
        assert inside(per_member, table > 2) == [[False] * 3, [True] * 3]

    def test_what_all_share_has_one_value(self):
        shared = torch.tensor(4)
        assert inside(lambda _: per_member(shared), NUMBERS) == [4]
        assert per_member(torch.tensor([1, 2])) == [[1, 2]]

    def test_of_a_computed_tensor_that_requires_a_gradient(self):
        weights = NUMBERS[:3].clone().requires_grad_()
        assert inside(lambda w: per_member(w * 2), weights) == [2.0, -2.0, 4.0]

    def test_inside_a_users_grad(self):
        seen = []

        def energy(x):
            seen.append(per_member(x * 2))
            return x * x

        torch.vmap(torch.func.grad(energy))(NUMBERS[:2])
        assert seen == [[2.0, -2.0]]

    def test_whether_a_gradient_is_required(self):
        weights = torch.ones(3, requires_grad=True)
        assert inside(lambda w: requires_grad(w * 2), weights)
        assert not inside(lambda w: requires_grad(w.detach()), weights)
        assert not inside(requires_grad, torch.ones(3))
        assert inside(lambda _: requires_grad(weights), torch.ones(3))
        with torch.no_grad():
            assert not inside(lambda w: requires_grad(w * 2), weights)

    def test_how_often_a_tensor_was_changed(self):
        def run(x):
            before = versions([x])
            x.add_(1)
            return before, versions([x])

        (before,), (after,) = inside(run, torch.ones(3))
        assert after == before + 1
        assert versions([]) == []


class TestDecisions:
    def test_members_that_agree_get_the_value(self):
        decisions = Decisions()
        ones = torch.ones(4)
        assert inside(lambda x: decisions(x, "bool"), ones) is True
        assert inside(lambda x: decisions(x, "int"), ones) == 1
        assert inside(lambda x: decisions(x, "item"), ones) == 1.0
        assert inside(lambda x: decisions(x.view(1, 1), "float"), ones) == 1.0
        assert decisions.made == [True, 1, 1.0, 1.0]

    def test_members_that_differ_are_told(self):
        decisions = Decisions()
        with pytest.raises(Differ) as caught:
            inside(lambda x: decisions(x > 0, "bool"), NUMBERS)
        assert caught.value.outcomes == [True, False, True, False, False]
        assert decisions.refused is caught.value
        assert decisions.made == []

    def test_what_is_recorded_is_replayed_without_a_look(self):
        decisions = Decisions([False, 7])
        assert inside(lambda x: decisions(x, "bool"), torch.ones(3)) is False
        assert inside(lambda x: decisions(x, "item"), NUMBERS) == 7
        assert inside(lambda x: decisions(x, "bool"), torch.ones(3)) is True

    def test_a_list_is_the_modules_to_change(self):
        decisions = Decisions()
        rows = torch.tensor([[1, 2]] * 3)
        inside(lambda x: decisions(x, "tolist").clear(), rows)
        assert decisions.made == [[1, 2]]
        recorded = [[[1, 2], [3]]]
        again = Decisions(recorded)
        inside(lambda x: again(x, "tolist")[0].clear(), rows)
        assert recorded == [[[1, 2], [3]]]

    def test_several_numbers_have_no_truth(self):
        with pytest.raises(RuntimeError):
            inside(lambda x: Decisions()(x, "bool"), torch.ones(3, 2))

    def test_through_the_watch(self):
        decisions = Decisions([True])
        with Watch(decisions):
            turns = inside(lambda x: [bool(x > 0), int(x * 0), x.requires_grad], NUMBERS[:3])
        assert turns == [True, 0, False]
        assert decisions.asked

    def test_an_error_of_python_stays(self):
        with pytest.raises(ValueError, match="NaN"):
            inside(lambda x: Decisions()(x, "int"), torch.full((2,), float("nan")))


values = st.one_of(
    st.booleans(), st.integers(-3, 3), st.floats(width=32), st.lists(st.integers(0, 2), max_size=2)
)


@given(st.lists(values, min_size=1, max_size=12))
def test_parts_hold_every_place_once_and_one_outcome_each(outcomes):
    parts = parts_of(outcomes)
    assert sorted(place for _, places in parts for place in places) == list(range(len(outcomes)))
    for value, places in parts:
        assert places == sorted(places)
        assert {repr(outcomes[place]) for place in places} == {repr(value)}
        assert {type(outcomes[place]) for place in places} == {type(value)}
    assert len({(type(value), repr(value)) for value, _ in parts}) == len(parts)
    assert [places[0] for _, places in parts] == sorted(places[0] for _, places in parts)


def test_nan_and_the_zeros_have_parts_of_their_own():
    nan = float("nan")
    parts = parts_of([0.0, nan, -0.0, float("nan"), 0, False])
    assert [places for _, places in parts] == [[0], [1, 3], [2], [4], [5]]
