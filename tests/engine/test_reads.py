"""What code reads by name."""

import functools

import pytest
import torch
from torch import nn

from chimera.engine.places import Places
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
    assert any(reason in told for told in Places({"net": net}, [net]).unfollowed)


def test_small_arrays_are_followed_and_large_ones_are_not():
    numpy = pytest.importorskip("numpy")
    net = Quiet()
    net.w0 = numpy.ones(3)
    reached = Reached({"net": net}, [net])
    assert reached.holds()
    net.w0[1] = 2
    assert not reached.holds()
    net.w0 = numpy.ones(3000)
    assert any("array of 3000" in told for told in Places({"net": net}, [net]).unfollowed)
    net.w0 = numpy.random.default_rng(0)
    assert any("Generator" in told for told in Places({"net": net}, [net]).unfollowed)


def test_what_grows_is_another_and_what_shrinks_again_is_the_same():
    net = Quiet()
    net.w0 = [1.0]
    reached = Reached({"net": net}, [net])
    net.w0.append(1.0)
    assert not reached.holds()
    net.w0.pop()
    assert reached.holds()
    net.w0[0] = 2.0
    assert not reached.holds()


class Slotted:
    __slots__ = ("__hidden", "shown")

    def __init__(self):
        self.__hidden, self.shown = 1.0, 2.0

    def set(self, value):
        self.__hidden = value


def test_slots_are_followed_under_their_mangled_names():
    net = Quiet()
    net.w0 = Slotted()
    reached = Reached({"net": net}, [net])
    assert reached.holds()
    net.w0.set(5.0)
    assert not reached.holds()


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x * FACTOR


FACTOR = 2.0


def test_the_backward_of_a_function_is_followed(monkeypatch):
    reached = Reached({"loss": lambda x: Square.apply(x).sum()}, [])
    assert reached.holds()
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert not reached.holds()
    assert reached.changed() == ["FACTOR"]


@functools.lru_cache
def cached(n):
    return n * FACTOR


def test_what_caches_wrap_and_methods_are_bound_to_is_followed(monkeypatch):
    box = [1]
    reached = Reached({"loss": lambda x: cached(3), "count": box.count}, [])
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert not reached.holds()
    reached = Reached({"count": box.count}, [])
    box.append(1)
    assert not reached.holds()
