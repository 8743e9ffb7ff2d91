"""What forward counts outside of its module counts for each member; a cache is filled once."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import chimera as ch

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

count = 0
log: list[torch.Size] = []
state = {"n": 0}
sizes: dict[torch.Size, int] = {}
last: tuple[int, ...] = ()


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        return self.layer(x)


class InAVariable(Base):
    def forward(self, x):
        global count
        count += 1
        return self.layer(x)


class InTheClass(Base):
    total = 0

    def forward(self, x):
        type(self).total += 1
        return self.layer(x)


class InAList(Base):
    def forward(self, x):
        log.append(x.shape)
        return self.layer(x)


class InADict(Base):
    def forward(self, x):
        y = self.layer(x)
        state["n"] += 1
        return y


class BeforeACondition(InAVariable):
    """A run that is thrown away for its condition counts nothing."""

    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > -1e9 else x


def of_a_function():
    counted = 0

    class InAClosure(Base):
        def forward(self, x):
            nonlocal counted
            counted += 1
            return self.layer(x)

    return InAClosure, lambda: counted


COUNTERS: list[tuple[type[Base], Callable[[], int]]] = [
    (InAVariable, lambda: count),
    (InTheClass, lambda: InTheClass.total),
    (InAList, lambda: len(log)),
    (InADict, lambda: state["n"]),
    (BeforeACondition, lambda: count),
    of_a_function(),
]


@pytest.mark.parametrize(("kind", "counted"), COUNTERS)
def test_once_a_member(agree, members, kind, counted):
    stack, before = ch.Stack(members(kind, 4)), counted()
    for calls in range(1, 5):
        stack(X)
        assert counted() - before == 4 * calls
        assert "forward changes what is outside of the module" in str(ch.explain(stack))
        assert ch.explain(stack).alone
    agree(members(kind, 4), X)


class FillsACache(Base):
    def forward(self, x):
        if x.shape not in sizes:
            sizes[x.shape] = 2 * x.shape[0]
        return self.layer(x) * sizes[x.shape]


class NotesTheLast(Base):
    def forward(self, x):
        global last
        last = tuple(x.shape)
        return self.layer(x)


@pytest.mark.parametrize("kind", [FillsACache, NotesTheLast])
def test_what_stays_the_same_runs_as_one(agree, members, kind):
    stack = ch.Stack(members(kind, 4))
    for rows in (5, 5, 3, 3, 5):
        stack(X[:rows])
    assert not ch.explain(stack).alone
    agree(members(kind, 4), X)


class Steps(nn.Module):
    """A loss that counts its steps counts them once a step, for all members."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def forward(self, output, target):
        self.steps += 1
        return (output - target).square().mean() / self.steps


def test_a_loss_counts_its_steps(members):
    stack, loss = ch.Stack(members(Base, 3)), Steps()
    step = ch.train_step(stack, loss, ch.optim.SGD(stack, lr=0.1))
    for _ in range(3):
        step(X, X[:, :4])
    assert loss.steps == 3
    assert not ch.explain(stack).alone
