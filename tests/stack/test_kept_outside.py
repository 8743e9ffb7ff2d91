"""Tensors that a forward keeps outside of its module: caches and lists of a file, of a class."""

import functools
from collections import OrderedDict, deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.stack.holders import Held, take_away

X = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

CACHE, LOG, LAST, SEEN = {}, [], deque(maxlen=5), set()
NESTED = {"masks": {}, "other": 1}
HOLDER = SimpleNamespace(mask=None)


class Anything:
    """Has every attribute."""

    def __getattr__(self, name):
        return object()


ANYTHING = Anything()
FIRST = None


def _mask(x):
    return torch.ones_like(x[0]).cumsum(-1)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)


class InADict(Base):
    def forward(self, x):
        n = x.shape[-1]
        if n not in CACHE:
            CACHE[n] = _mask(x)
        return self.layer(x) * CACHE[n]


class InATuple(Base):
    """As rotary embeddings are kept."""

    def forward(self, x):
        if "rope" not in CACHE:
            CACHE["rope"] = (_mask(x).cos(), [_mask(x).sin()])
        cos, (sin,) = CACHE["rope"]
        return self.layer(x) * cos + sin


class InADictOfDicts(Base):
    def forward(self, x):
        if "rope" not in CACHE:
            CACHE["rope"] = {"cos": _mask(x).cos(), "sin": _mask(x).sin()}
        return self.layer(x) * CACHE["rope"]["cos"] + CACHE["rope"]["sin"]


class InANestedDict(Base):
    def forward(self, x):
        if "m" not in NESTED["masks"]:
            NESTED["masks"]["m"], NESTED["masks"]["n"] = _mask(x), 4
        return self.layer(x) * NESTED["masks"]["m"]


class InTheClass(Base):
    cache = OrderedDict()

    def forward(self, x):
        if "mask" not in self.cache:
            self.cache["mask"] = _mask(x)
        return self.layer(x) * self.cache["mask"]


class OfTheClass(Base):
    mask = None

    def forward(self, x):
        if type(self).mask is None:
            type(self).mask = _mask(x)
        return self.layer(x) * type(self).mask


class InAnObject(Base):
    def forward(self, x):
        if HOLDER.mask is None:
            HOLDER.mask = _mask(x)
        return self.layer(x) * HOLDER.mask


class InAVariable(Base):
    def forward(self, x):
        global FIRST
        if FIRST is None:
            FIRST = _mask(x)
        return self.layer(x) * FIRST


@functools.lru_cache(maxsize=8)
def _bounded(n, dtype):
    return torch.rand(n, dtype=dtype)


@functools.cache
def _unbounded(n, dtype):
    return torch.rand(n, dtype=dtype)


class InBoundedCache(Base):
    def forward(self, x):
        return self.layer(x) + _bounded(4, x.dtype)


class InACache(Base):
    def forward(self, x):
        return self.layer(x) + _unbounded(4, x.dtype)


def _closure():
    kept = None

    def mask(x):
        nonlocal kept
        if kept is None:
            kept = _mask(x)
        return kept

    return mask


_in_closure = _closure()


class InAClosure(Base):
    def forward(self, x):
        return self.layer(x) * _in_closure(x)


class InALog(Base):
    def forward(self, x):
        h = self.layer(x)
        LOG.append(h)
        LAST.append(h.detach().mean())
        SEEN.add(h.detach().max())
        return h


class BeforeACondition(Base):
    """The first try fails, since members ask, after the cache was filled."""

    def forward(self, x):
        if "early" not in CACHE:
            CACHE["early"] = _mask(x)
        h = self.layer(x) * CACHE["early"]
        return h * 2 if h.sum() > 0 else h


KINDS = [
    *(InADict, InATuple, InADictOfDicts, InANestedDict, InTheClass, OfTheClass, InAnObject),
    *(InAVariable, InBoundedCache, InACache, InAClosure, InALog, BeforeACondition),
]


@pytest.fixture(autouse=True)
def _empty():
    global FIRST, _in_closure
    yield
    for held in (CACHE, LOG, LAST, SEEN, NESTED["masks"], InTheClass.cache):
        held.clear()
    HOLDER.mask = FIRST = OfTheClass.mask = None
    _in_closure = _closure()
    _bounded.cache_clear()
    _unbounded.cache_clear()


def _tensors(held):
    if isinstance(held, torch.Tensor):
        return [held]
    parts = held.values() if isinstance(held, dict) else held
    return [one for part in parts for one in _tensors(part)] if hasattr(parts, "__iter__") else []


def _some_are_dead():
    cells = [cell.cell_contents for cell in _in_closure.__closure__]
    caches = [cache(4, X.dtype) for cache in (_bounded, _unbounded) if cache.cache_info().currsize]
    named = [HOLDER.mask, OfTheClass.mask, FIRST]
    for one in _tensors([CACHE, LOG, LAST, SEEN, NESTED, InTheClass.cache, cells, caches, named]):
        try:
            one.sum()
        except RuntimeError:
            return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_dead_is_left(members, kind):
    nets = members(kind, 3)
    stack = ch.Stack(nets, seed=7)
    for step in range(2):
        out = stack(ch.each(X))
        assert not _some_are_dead()
        if kind not in (InBoundedCache, InACache):  # whose numbers are those of who came first
            for index, net in enumerate(nets):
                with ch.randomness(seed=7, member=index, step=step):
                    torch.testing.assert_close(out[index], net(X[index]))
    for index in range(3):
        torch.testing.assert_close(stack[index](X[index]), out[index])
    assert "outside of the module" in str(ch.explain(stack)) or kind is BeforeACondition
    assert ch.explain(stack).alone


def test_a_log_has_an_entry_a_member(members):
    stack = ch.Stack(members(InALog, 3))
    out = stack(ch.each(X))
    assert len(LOG) == len(LAST) == len(SEEN) == 3
    for logged, mine in zip(LOG, out, strict=True):
        assert torch.equal(logged, mine)


def test_what_was_there_before_stays(members):
    LOG.append("first")
    CACHE["mine"], NESTED["masks"]["mine"] = 1, {}
    ch.Stack(members(InALog, 3))(ch.each(X))
    ch.Stack(members(InADict, 3))(ch.each(X))
    ch.Stack(members(InANestedDict, 3))(ch.each(X))
    assert LOG[0] == "first"
    assert CACHE.keys() == {"mine", 4}
    assert NESTED["masks"].keys() == {"mine", "m", "n"}


def test_a_cache_that_is_filled_at_a_new_shape(agree, members):
    class Late(Base):
        def forward(self, x):
            if len(x) > 2 and "late" not in CACHE:
                CACHE["late"] = _mask(x)
            return self.layer(x) * CACHE.get("late", 1.0)

    nets = members(Late, 3)
    stack = agree(nets, ch.each(X))
    assert not ch.explain(stack).alone
    agree(nets, ch.each(torch.cat([X, X], 1)), stack=stack)
    assert not _some_are_dead()


def test_a_cycle_is_no_cache(members):
    class Recursive(Base):
        def forward(self, x):
            def again(h, n):
                return again(self.layer(h), n - 1) if n else h

            return again(x, 2)

    stack = ch.Stack(members(Recursive, 3))
    stack(ch.each(X))
    assert not ch.explain(stack).alone


def test_what_cannot_let_go_is_named():
    tensor = torch.ones(2)
    held = tensor
    for _ in range(9):
        held = (held,)
    kept = [held]
    with pytest.raises(Held, match="keep it in an attribute of the module"):
        take_away([tensor])
    assert kept


class Running(nn.Module):
    """A loss that keeps a mean of itself."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones((), dtype=torch.float64))
        self.last = None

    def forward(self, output, target):
        loss = torch.nn.functional.mse_loss(output, target)
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        self.last = loss.detach()
        return loss / self.mean


def test_a_loss_that_keeps_state_is_left_alive():
    stack, loss = ch.Stack([nn.Linear(4, 4).double() for _ in range(3)]), Running()
    step = ch.train_step(stack, loss, ch.optim.SGD(stack, lr=0.1))
    for _ in range(3):
        step(X[0], X[1])
        assert loss.mean.isfinite()
        assert loss.last.isfinite()
    assert ch.explain(stack).alone
