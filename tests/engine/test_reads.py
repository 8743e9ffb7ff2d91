"""What code reads by name."""

import functools

import pytest
import torch
from torch import nn

from chimera.engine.reached import Reached
from chimera.engine.reads import is_installed, reads_of

A = 1


def function(x):
    global A
    A = x.size + len(x)
    return [A for _ in x] + (lambda: B)()  # noqa: F821


def importing(x):
    from os import path

    return path.sep


def test_names_are_told_from_inner_functions_too():
    reads = reads_of(function.__code__)
    assert reads.globals >= {"A", "B", "len"}
    assert reads.attributes >= {"size"}
    assert not reads.dynamic
    assert reads_of(importing.__code__).imports == {"os"}
    assert reads_of(importing.__code__).attributes >= {"path", "sep"}


@pytest.mark.parametrize("code", ["getattr(x, n)", "vars(x)", "x.__dict__", "eval(n)"])
def test_names_made_as_code_runs_are_told(code):
    assert reads_of(compile(code, "file", "eval")).dynamic


def test_what_is_installed():
    assert is_installed(nn.Linear)
    assert is_installed(functools.partial)
    assert is_installed(pytest)
    assert not is_installed(function)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.w0, self.w1, self.unread = 1.0, 2.0, 3.0

    def forward(self, x):
        return x * getattr(self, f"w{A % 2}")


def test_attributes_read_by_a_made_name_are_followed():
    net = Named()
    reached = Reached({"net": net}, [net])
    assert reached.holds()
    net.w1 = 5.0
    assert not reached.holds()
    assert reached.changed() == ["net.w1"]


class Quiet(nn.Module):
    def __init__(self):
        super().__init__()
        self.w0, self.unread = 1.0, 3.0

    def forward(self, x):
        return x * self.w0


def test_an_attribute_that_is_not_read_is_none_of_it():
    net = Quiet()
    reached = Reached({"net": net}, [net])
    net.unread = 5.0
    assert reached.holds()
    net.w0 = 5.0
    assert not reached.holds()


@pytest.mark.parametrize(("value", "same"), [(1, False), (True, False), (1.0, True), (-1.0, False)])
def test_numbers_of_other_types_are_others(value, same):
    net = Quiet()
    reached = Reached({"net": net}, [net])
    net.w0 = value
    assert reached.holds() is same


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (iter([1]), "list_iterator"),
        ((i for i in range(3)), "generator"),
        (torch.Generator(), "Generator"),
        (dict.fromkeys(range(5000)), "holds 5000 values"),
        (bytearray(3), "bytearray"),
        (torch.eye(3).to_sparse(), "no strided tensor"),
    ],
)
def test_what_cannot_be_followed_is_told(value, reason):
    net = Quiet()
    net.w0 = value
    assert any(reason in told for told in Reached({"net": net}, [net]).unfollowed)


def test_small_arrays_are_followed_and_large_ones_are_not():
    numpy = pytest.importorskip("numpy")
    net = Quiet()
    net.w0 = numpy.ones(3)
    reached = Reached({"net": net}, [net])
    assert reached.holds()
    net.w0[1] = 2
    assert not reached.holds()
    net.w0 = numpy.ones(3000)
    assert any("array of 3000" in told for told in Reached({"net": net}, [net]).unfollowed)
    net.w0 = numpy.random.default_rng(0)
    assert any("Generator" in told for told in Reached({"net": net}, [net]).unfollowed)
