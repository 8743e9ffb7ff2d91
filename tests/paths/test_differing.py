"""Functions of one code are told apart by what they hold, not by their code."""

import functools

import pytest
import torch
from torch import nn

from chimera.paths.differing import describe_difference
from chimera.paths.structure import difference, read


class Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function


def scaling(by):
    def scale(x):
        return x * by

    return scale


def wrapped(function):
    @functools.wraps(function)
    def inner(x):
        return function(x)

    return inner


def with_default(by):
    def scale(x, y=by):
        return x * y

    return scale


def with_named(by):
    def scale(x, *, y=by):
        return x * y

    return scale


def with_attribute(by):
    def scale(x):
        return x

    scale.by = by
    return scale


CASES = [
    (scaling, "function: the variable 'by' of the function scale is 0.5 against 0.25"),
    (with_default, "function: a default of the function scale is 0.5 against 0.25"),
    (with_named, "function: a named default of the function scale is 0.5 against 0.25"),
    (with_attribute, "function: an attribute of the function scale is 0.5 against 0.25"),
    (lambda by: wrapped(scaling(by)), "the function scale is 0.5 against 0.25"),
    (lambda by: torch.no_grad()(scaling(by)), "the function scale is 0.5 against 0.25"),
    (lambda by: functools.partial(max, by), "an argument of the partial is 0.5 against 0.25"),
    (lambda by: functools.partial(scaling(by)), "the function scale is 0.5 against 0.25"),
    (lambda by: [scaling(1), scaling(by)], "function[1]: the variable 'by' of the function scale"),
    (
        lambda by: scaling(scaling([by])),
        "function: the variable 'by' of the function scale is 0.5 against 0.25",
    ),
]


@pytest.mark.parametrize(("make", "text"), CASES)
def test_what_differs_is_named(make, text):
    pair = difference(read(Applies(make(0.5))), read(Applies(make(0.25))))
    assert text in describe_difference(pair)


def test_other_code_is_told_by_its_place():
    pair = difference(read(Applies(scaling(1))), read(Applies(with_default(1))))
    told = describe_difference(pair)
    lines = [f.__code__.co_firstlineno for f in (scaling(1), with_default(1))]
    places = [f"the function scale (test_differing.py, line {line})" for line in lines]
    assert told == f"function: value is {places[0]} against {places[1]}"
