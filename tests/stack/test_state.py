"""What a member's forward writes into its module stands in that member, as it would alone."""

import collections
import types
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch

X = torch.linspace(-1, 1, 12).view(3, 4).double()


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)


class LastTensor(Base):
    def forward(self, x):
        h = self.layer(x)
        h = h + self.last.detach() if hasattr(self, "last") else h
        self.last = h
        return h


class Counter(Base):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * self.calls


class History(Base):
    def __init__(self):
        super().__init__()
        self.means, self.table, self.recent = [], {}, collections.deque(maxlen=2)

    def forward(self, x):
        h = self.layer(x)
        self.means.append(h.detach().mean())
        self.recent.append(h.detach().sum(0))
        self.table[f"call {len(self.means)}"] = (h.detach()[0], len(self.means))
        return h * sum(self.means) + sum(self.recent)


@dataclass
class Record:
    best: Any = None
    seen: list[Any] = field(default_factory=list)


class Meter:
    """A plain object, as people write them."""

    def __init__(self):
        self.total, self.calls = 0.0, 0

    def update(self, value):
        self.total = self.total + value
        self.calls += 1


class Objects(Base):
    def __init__(self):
        super().__init__()
        self.record, self.meter = Record(), Meter()
        self.names, self.tally = types.SimpleNamespace(calls=0), collections.Counter()

    def forward(self, x):
        h = self.layer(x)
        self.record.best = h.detach().amax()
        self.record.seen.append(h.detach().mean())
        self.meter.update(h.detach().mean())
        self.names.calls += 1
        self.tally["calls"] += 2
        return h * self.meter.total * self.meter.calls + self.record.best * self.tally["calls"]


class AssignedBuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(4))
        self.register_buffer("hidden", torch.zeros(4), persistent=False)

    def forward(self, x):
        h = self.layer(x)
        self.average = 0.5 * self.average + h.detach().mean(0)
        self.hidden.add_(h.detach().mean(0))
        return h + self.average + self.hidden


class BufferOfNone(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", None)

    def forward(self, x):
        h = self.layer(x)
        if self.mask is None:
            self.mask = h.detach().mean(0)
        return h * self.mask


class RegistersBuffer(Base):
    def forward(self, x):
        h = self.layer(x)
        if not hasattr(self, "scale"):
            self.register_buffer("scale", h.detach().mean(0), persistent=False)
        return h * self.scale


class ForgetsBuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("once", torch.randn(4))

    def forward(self, x):
        h = self.layer(x)
        if self.once is not None:
            h = h + self.once
            self.once = None
        return h


class Deletes(Base):
    def __init__(self):
        super().__init__()
        self.first, self.offset = True, torch.randn(4, dtype=torch.float64)

    def forward(self, x):
        h = self.layer(x)
        if hasattr(self, "first"):
            h = h * 2 + self.offset
            del self.first, self.offset
        return h


class WritesParameter(Base):
    def forward(self, x):
        with torch.no_grad():
            self.layer.weight.mul_(0.9).add_(0.01)
        return F.dropout(self.layer(x), 0.5, self.training)


class SetsMode(Base):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        was = self.drop.training
        self.drop.eval()
        h = self.drop(self.layer(x))
        if h.sum() > -1e9:  # a condition, for which the call runs again
            self.drop.train(was)
        return self.drop(h)


class LeavesMode(SetsMode):
    def forward(self, x):
        h = self.drop(self.layer(x))
        self.drop.eval()
        return h


class SwapsTensors(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("now", torch.zeros(4))
        self.before = None

    def forward(self, x):
        h = self.layer(x)
        self.before, self.now = self.now, h.detach().mean(0)
        return h + self.now - self.before


class Grows(Base):
    """A buffer of another shape after every call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(1, 4))

    def forward(self, x):
        h = self.layer(x)
        self.rows = torch.cat([self.rows, h.detach()])
        return h + self.rows.mean(0)


class OldWeightNorm(Base):
    """Writes a plain attribute with a graph before every call, by a hook."""

    def __init__(self):
        super().__init__()
        with pytest.warns(FutureWarning):
            self.normed = nn.utils.weight_norm(nn.Linear(4, 4))

    def forward(self, x):
        return self.normed(self.layer(x))


class OnlySome(Base):
    """Some members keep a tensor, others a number, a list, or nothing."""

    def __init__(self):
        super().__init__()
        self.note = None

    def forward(self, x):
        h = self.layer(x)
        if h.sum() > 0.5:
            self.note = h.detach()
            self.extra = [h.detach().mean()]
        elif h.sum() < -0.5:
            self.note = 3
        return h if not isinstance(self.note, torch.Tensor) else h + self.note.mean()


WRITERS = [
    *(LastTensor, Counter, History, Objects, AssignedBuffer, BufferOfNone, RegistersBuffer),
    *(ForgetsBuffer, Deletes, WritesParameter, SetsMode, LeavesMode, SwapsTensors, Grows),
    *(OldWeightNorm, OnlySome),
]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("n", [1, 4, 20])
def test_what_is_written_stands_in_the_member(agree, members, kind, n):
    agree(members(kind, n), X, steps=4)


@pytest.mark.parametrize("kind", [k for k in WRITERS if k not in (OldWeightNorm, OnlySome)])
def test_none_of_them_needs_to_run_one_by_one(agree, members, kind):
    stack = agree(members(kind, 4), X, steps=2)
    assert not ch.explain(stack).alone


class Split(nn.Module):
    """Any of the above, in members that differ in a condition before and after."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.sign = inner, nn.Parameter(torch.randn(()))

    def forward(self, x):
        h = self.inner(x * 2 if self.sign > 0 else x)
        return h + 1 if self.sign < 0.5 else h


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_written_in_parts(agree, members, kind):
    stack = agree(members(lambda: Split(kind()), 24), X, steps=3)
    if kind not in (OldWeightNorm, OnlySome):
        assert not ch.explain(stack).alone


@pytest.mark.parametrize("kind", WRITERS)
def test_a_stack_that_is_copied_goes_on_as_the_loop(agree, members, kind):
    modules = members(kind, 4)
    stack = agree(modules, X, steps=2, gradients=False)
    again = [stack[i] for i in range(4)]
    agree(again, X, steps=2, gradients=False)


@pytest.mark.parametrize("kind", [k for k in WRITERS if k is not OldWeightNorm])
def test_a_call_that_fails_leaves_everything_as_it_was(members, kind):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = kind()

        def forward(self, x, fail):
            h = self.inner(x)
            if fail:
                raise ValueError("told to")
            return h

    stack = ch.Stack(members(Fails, 4))
    stack(X, False)
    before = [facts_of(stack[i]) for i in range(4)]
    calls = stack.calls
    with pytest.raises(ValueError, match="told to"):
        stack(X, True)
    assert [facts_of(stack[i]) for i in range(4)] == before
    assert stack.calls == calls


def facts_of(module):
    """Every tensor and plain value of a module, to be compared by ``==``."""
    from chimera.paths.structure import read

    reading = read(module)
    facts = [(f.path, f.name, repr(f.value)) for f in reading.facts if "Opaque" not in repr(f)]
    tensors = [(slot.path, slot.tensor.tolist()) for slot in reading.slots]
    return sorted(facts), sorted(tensors)


def test_wrappers_of_vmap_never_stay_in_a_member(members):
    stack = ch.Stack(members(LastTensor, 4))
    stack(X)
    assert stack[0].last.tolist() != stack[1].last.tolist()
    assert torch.equal(stack.groups["0"].last[2], stack[2].last)


def test_state_is_part_of_the_stacks_state(members):
    one, other = ch.Stack(members(AssignedBuffer, 4)), ch.Stack(members(AssignedBuffer, 4))
    one(X)
    assert "groups.0.average" in one.state_dict()
    assert "groups.0.hidden" not in one.state_dict()
    other.load_state_dict(one.state_dict())
    assert torch.equal(other[3].average, one[3].average)


class MakesChild(Base):
    def forward(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Linear(4, 4, dtype=x.dtype)
        return self.late(self.layer(x))


class MakesParameter(Base):
    def forward(self, x):
        self.late = nn.Parameter(torch.zeros(4))
        return self.layer(x)


class ReplacesParameter(Base):
    def forward(self, x):
        self.layer.weight = nn.Parameter(torch.zeros(4, 4, dtype=x.dtype))
        return self.layer(x)


class RemovesBuffer(AssignedBuffer):
    def forward(self, x):
        del self.average
        return self.layer(x)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (MakesChild, "the module itself: forward registers the module 'late'"),
        (MakesParameter, "the module itself: forward registers the parameter 'late'"),
        (ReplacesParameter, "layer.weight: forward put another tensor in the place"),
        (RemovesBuffer, "the module itself: forward removes the buffer 'average'"),
    ],
)
def test_what_no_stack_can_keep_is_said(members, kind, said):
    modules = members(kind, 3)
    stack = ch.Stack(modules)
    with pytest.raises(TypeError, match=said):
        stack(X)
    assert not hasattr(stack[0], "late")
    assert torch.equal(stack[1].layer.weight, modules[1].layer.weight)


class Uneven(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(1))

    def forward(self, x):
        h = self.layer(x)
        self.rows = h.detach()[: 1 if h.sum() > 0 else 2]
        return h


def test_buffers_of_different_shapes_are_an_error(members):
    with pytest.raises(ValueError, match="rows: members assigned tensors of different shapes"):
        ch.Stack(members(Uneven, 12))(X)
