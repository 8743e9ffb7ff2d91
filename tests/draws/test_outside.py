"""Draws that torch does not know of are noticed, and put back."""

import random

import numpy
import pytest
import torch

from chimera.draws.outside import DrawnOutside, none_outside

DRAWS = {
    "random": random.random,
    "shuffle": lambda: random.shuffle([1, 2, 3]),
    "gauss": lambda: random.gauss(0, 1),
    "rand": lambda: numpy.random.rand(),
    "randn": lambda: numpy.random.randn(),
    "permutation": lambda: numpy.random.permutation(5),
    "a whole state": lambda: numpy.random.rand(312),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_is_an_error_and_the_next_one_is_the_first(name):
    def drawn():
        return random.random(), numpy.random.rand()

    random.seed(3), numpy.random.seed(3)
    expected = drawn()
    random.seed(3), numpy.random.seed(3)
    whose = "Python's random" if name in ("random", "shuffle", "gauss") else "numpy.random"
    with pytest.raises(DrawnOutside, match=whose), none_outside():
        DRAWS[name]()
    assert drawn() == expected


def test_draws_of_torch_and_of_generators_of_ones_own_are_none():
    with none_outside():
        torch.rand(3)
        random.Random(0).random()
        numpy.random.default_rng(0).random()


def test_what_was_raised_inside_is_raised():
    def fails():
        with none_outside():
            raise KeyError(random.random())

    with pytest.raises(KeyError):
        fails()


def test_another_generator_of_numpys_is_left_alone():
    before = numpy.random.get_bit_generator()
    numpy.random.set_bit_generator(numpy.random.PCG64(0))
    try:
        with none_outside():
            numpy.random.rand()
    finally:
        numpy.random.set_bit_generator(before)
