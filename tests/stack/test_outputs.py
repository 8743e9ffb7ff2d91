"""Outputs of parts of members, put together in member order."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.paths.nest import flatten
from chimera.stack.outputs import Outputs, alone, merge


def part(positions, value):
    leaves, shape = flatten(value)
    return Outputs(positions, leaves, shape, [isinstance(leaf, torch.Tensor) for leaf in leaves])


def row(position):
    return torch.full((2,), float(position))


@given(st.permutations(range(7)), st.lists(st.integers(1, 6), max_size=3))
def test_tensors_come_in_member_order(order, cuts):
    edges = [0, *sorted(set(cuts)), 7]
    pieces = [order[a:b] for a, b in itertools.pairwise(edges)]
    parts = [part(list(piece), {"x": torch.stack([row(p) for p in piece])}) for piece in pieces]
    merged = merge(parts)
    assert torch.equal(merged["x"], torch.stack([row(p) for p in range(7)]))


@given(st.permutations(range(6)))
def test_so_do_values_lists_and_nests(order):
    out = merge([alone(p, (row(p), p, "same", [None])) for p in order])
    assert torch.equal(out[0], torch.stack([row(p) for p in range(6)]))
    assert out[1:] == (list(range(6)), "same", [None])
    shapes = merge([alone(p, torch.zeros(p)) for p in order])
    assert [len(tensor) for tensor in shapes] == list(range(6))
    nests = merge([alone(p, [p] * p) for p in order])
    assert nests == [[p] * p for p in range(6)]


def test_dtypes_that_differ_are_a_list():
    out = merge([alone(1, torch.zeros(2)), alone(0, torch.zeros(2, dtype=torch.int64))])
    assert [tensor.dtype for tensor in out] == [torch.int64, torch.float32]


def test_a_tensor_and_none_are_a_list():
    out = merge([alone(1, None), alone(0, torch.zeros(2))])
    assert out[1] is None
    assert out[0].shape == (2,)


def test_values_of_different_types_are_not_equal():
    assert merge([alone(0, 1), alone(1, True), alone(2, 1.0)]) == [1, True, 1.0]
    assert [type(v) for v in merge([alone(0, 1), alone(1, True)])] == [int, bool]


def test_an_eq_that_raises_means_different():
    class Odd:
        __hash__ = None

        def __eq__(self, other):
            raise ZeroDivisionError

    one, two = Odd(), Odd()
    assert merge([alone(0, one), alone(1, one)]) is one
    merged = merge([alone(0, one), alone(1, two)])
    assert merged[0] is one
    assert merged[1] is two


def test_nan_is_one_value_of_each_member():
    out = merge([alone(0, float("nan")), alone(1, float("nan"))])
    assert all(value != value for value in out)


def test_one_part_that_is_whole_is_not_copied():
    tensor = torch.zeros(3, 2)
    assert merge([part([0, 1, 2], tensor)]) is tensor


def test_of_member():
    outputs = part([4, 7], {"x": torch.tensor([[1.0], [2.0]]), "note": "a"})
    assert outputs.of_member(1) == {"x": torch.tensor([2.0]), "note": "a"}


def test_sets_that_differ_are_a_list():
    assert merge([alone(0, ({1}, 2)), alone(1, ({3}, 2))]) == [({1}, 2), ({3}, 2)]
    assert merge([alone(0, {1}), alone(1, {1})]) == {1}


@pytest.mark.parametrize("value", [(), {}, [], ((), [])])
def test_nests_without_leaves(value):
    assert merge([alone(0, value), alone(1, value)]) == value
