"""Stand-ins: the same where two values do the same in two modules, different where they may not."""

import functools
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import _WrappedHook

from chimera.paths.describe import Describer, Opaque, same


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def method(self, x):
        return x

    def other(self, x):
        return x


def stand_ins(value_of):
    """The stand-ins of a value of each of two modules."""
    found = []
    for _ in range(2):
        owner = Owner()
        modules = {id(module): index for index, module in enumerate(owner.modules())}
        slots = {id(tensor): index for index, tensor in enumerate(owner.parameters())}
        found.append((owner, Describer(modules, slots)(value_of(owner))))
    return found[0][1], found[1][1]


def maker(value):
    def inner(x):
        return (x, value)

    return inner


def wrapping(function):
    @functools.wraps(function)
    def wrapped(x):
        return function(x)

    return wrapped


def default(value, *, named=None):
    return (lambda x, y=value: (x, y)) if named is None else (lambda x, *, y=named: (x, y))


def recursive(owner):
    def count(n):
        return owner if n == 0 else count(n - 1)

    return count


class Point:
    def __init__(self, x):
        self.x = x


SAME = {
    "numbers": lambda o: (1, 2.5, 3 + 1j, "a", b"a", None, ..., range(3), slice(1, 2), True),
    "nan": lambda o: float("nan"),
    "nests": lambda o: {"a": [1, (o.layer, o.layer.weight)]},
    "modules": lambda o: o.layer,
    "tensors": lambda o: o.layer.bias,
    "builtins": lambda o: torch.relu,
    "functions": lambda o: F.relu,
    "lambdas": lambda o: lambda x: x + 1,
    "closures over the module": lambda o: lambda x: o.layer(x),
    "closures over tensors": lambda o: maker(o.layer.weight),
    "closures over values": lambda o: maker([1, {"a": 2}]),
    "defaults": lambda o: default(3),
    "named defaults": lambda o: default(None, named=o.layer),
    "recursion": recursive,
    "methods": lambda o: o.method,
    "partials": lambda o: functools.partial(o.method, 1, key=o.layer),
    "decorated functions": lambda o: wrapping(maker(3)),
    "functions without gradients": lambda o: torch.no_grad()(maker(3)),
    "functions with gradients": lambda o: torch.enable_grad()(maker(3)),
    "functions of inference": lambda o: torch.inference_mode()(wrapping(maker(o.layer))),
    "weak references": lambda o: weakref.ref(o.layer),
    "objects": lambda o: Point([o.layer, 1]),
    "hooks": lambda o: _WrappedHook(o.method, o),
    "dtypes": lambda o: (torch.float32, torch.device("cpu"), torch.strided, np.float32),
    "sets": lambda o: {"a", "b"},
}


@pytest.mark.parametrize("name", SAME)
def test_the_same(name):
    one, other = stand_ins(SAME[name])
    assert same(one, other)


@pytest.fixture
def turns():
    return iter(range(100))


DIFFERENT = {
    "numbers": lambda o, n: n,
    "types": lambda o, n: [1, 1.0, True][n % 3],
    "nests": lambda o, n: [0] * n,
    "modules": lambda o, n: [o, o.layer][n % 2],
    "tensors": lambda o, n: [o.layer.weight, o.layer.bias][n % 2],
    "tensors from elsewhere": lambda o, n: torch.ones(1),
    "modules from elsewhere": lambda o, n: nn.ReLU(),
    "functions": lambda o, n: [F.relu, F.gelu][n % 2],
    "code": lambda o, n: [lambda x: x + 1, lambda x: x + 2][n % 2],
    "closures": lambda o, n: maker(n),
    "closures over tensors from elsewhere": lambda o, n: maker(torch.ones(1)),
    "defaults": lambda o, n: default(n),
    "named defaults": lambda o, n: default(None, named=n + 1),
    "globals": lambda o, n: eval("lambda x: x + n", {"n": n}),
    "methods": lambda o, n: [o.method, o.other][n % 2],
    "methods of elsewhere": lambda o, n: Owner().method,
    "partials": lambda o, n: functools.partial(o.method, n),
    "keywords of partials": lambda o, n: functools.partial(o.method, key=n),
    "weak references": lambda o, n: weakref.ref([o, o.layer][n % 2]),
    "objects": lambda o, n: Point(n),
    "lists of a class of ones own": lambda o, n: type("L", (list,), {})(),
    "arrays": lambda o, n: np.zeros(2),
    "bare objects": lambda o, n: object.__new__(object),
    "function attributes": lambda o, n: _with_attribute(n),
    "decorated functions": lambda o, n: wrapping(maker(n)),
    "functions without gradients": lambda o, n: torch.no_grad()(maker(n)),
    "modes of decorators": lambda o, n: [torch.no_grad(), torch.enable_grad()][n % 2](maker(1)),
    "settings of modes": lambda o, n: torch.inference_mode(n % 2 == 0)(maker(1)),
    "hooks": lambda o, n: _WrappedHook([o.method, o.other][n % 2], o),
}


def _with_attribute(n):
    def function(x):
        return function.n

    function.n = n
    return function


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(name, turns):
    one, other = stand_ins(lambda owner: DIFFERENT[name](owner, next(turns)))
    assert not same(one, other)


class Mutable:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return self.value == other.value


class Hashable(Mutable):
    __slots__ = ()

    def __hash__(self):
        return hash(self.value)


class Raises:
    __slots__ = ()

    def __eq__(self, other):
        raise ZeroDivisionError

    def __hash__(self):
        return 0


class Odd(Raises):
    __slots__ = ()

    def __eq__(self, other):
        return np.array([True])

    __hash__ = Raises.__hash__


def test_equality_counts_where_a_hash_says_that_it_lasts():
    assert same(Opaque(Hashable(1)), Opaque(Hashable(1)))
    assert not same(Opaque(Hashable(1)), Opaque(Hashable(2)))
    assert not same(Opaque(Mutable(1)), Opaque(Mutable(1)))
    value = Mutable(1)
    assert same(Opaque(value), Opaque(value))


@pytest.mark.parametrize("kind", [Raises, Odd])
def test_an_eq_that_does_not_say_true(kind):
    assert not same(Opaque(kind()), Opaque(kind()))


def test_a_name_not_bound_yet():
    def outer():
        def inner():
            return late

        describe = Describer({}, {})
        unbound = describe(inner)
        late = 1
        return unbound, describe(inner)

    before, after = outer()
    assert before[-1] == ("empty",)
    assert not same(before, after)


def test_torch_wraps_hooks_where_they_are_looked_for():
    module = Owner()
    module.register_load_state_dict_pre_hook(module.method)
    (wrapped,) = module._load_state_dict_pre_hooks.values()
    assert isinstance(wrapped, _WrappedHook)
    assert wrapped.hook == module.method
    assert wrapped.with_module
