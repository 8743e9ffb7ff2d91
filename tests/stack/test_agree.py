"""The comparison itself: faults planted in the machinery must be told."""

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.draws import counter
from chimera.stack import outputs, shadow, state
from chimera.stack.group import Group
from chimera.stack.rules import table


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.4)
        self.out = nn.Linear(4, 2)
        self.calls = 0
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        self.calls += 1
        h = self.drop(self.norm(self.hidden(x)))
        self.seen = self.seen + h.detach().mean(0)
        return self.out(h)


X = torch.linspace(-1, 1, 15).view(5, 3).double()


def rolled(function):
    """``function`` with its result moved on by one row: every member gets a neighbour's."""
    return lambda *args, **kwargs: function(*args, **kwargs).roll(1, 0)


def test_without_a_fault_they_agree(agree, members):
    stack = agree(members(Net, 4), X)
    assert not ch.explain(stack).alone


def test_neighbours_weights_are_told(agree, members, monkeypatch):
    running = Group.running
    monkeypatch.setattr(
        Group, "running", lambda self, *args: [t.roll(1, 0) for t in running(self, *args)]
    )
    with pytest.raises(AssertionError, match="output"):
        agree(members(Net, 4), X)


@pytest.mark.parametrize("fault", ["row", "bias", "scale"])
def test_a_wrong_rule_is_told(agree, members, monkeypatch, fault):
    right = table.RULES[nn.Linear]

    def wrong(module, x):
        y = right.forward(module, x)
        if fault == "bias":
            return y - module.bias
        return y.flip(0) if fault == "row" else y * (1 + 1e-7)

    monkeypatch.setitem(table.RULES, nn.Linear, table.Rule("wrong", wrong))
    with pytest.raises(AssertionError, match="step 0: output"):
        agree(members(Net, 4), X)


def test_gradients_that_alone_are_wrong_are_told(agree, members, monkeypatch):
    class Same(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad * 1.0001

    right = table.RULES[nn.Linear]
    wrong = table.Rule("wrong", lambda module, x: Same.apply(right.forward(module, x)))
    monkeypatch.setitem(table.RULES, nn.Linear, wrong)
    with pytest.raises(AssertionError, match="step 0: gradient"):
        agree(members(Net, 4), X)


def test_a_neighbours_mask_is_told(agree, members, monkeypatch):
    from chimera.draws import mode

    def mixed_up(seed, ids, device=None):
        return counter.member_keys(seed, [i + 1 for i in ids] if len(ids) > 1 else ids, device)

    monkeypatch.setattr(mode, "member_keys", mixed_up)
    with pytest.raises(AssertionError, match="output"):
        agree(members(Net, 4), X)


def test_state_that_is_dropped_is_told(agree, members, monkeypatch):
    monkeypatch.setattr(state, "_keep_attribute", lambda *_: None)
    with pytest.raises(AssertionError, match="calls"):
        agree(members(Net, 4), X, gradients=False)


def test_buffers_mixed_up_are_told(agree, members, monkeypatch):
    set_tensor = Group.set_tensor
    monkeypatch.setattr(Group, "set_tensor", lambda s, i, t: set_tensor(s, i, t.roll(1, 0)))
    with pytest.raises(AssertionError, match="seen"):
        agree(members(Net, 4), X)


def test_runs_that_are_not_rolled_back_are_told(agree, members, monkeypatch):
    class Splits(Net):
        def forward(self, x):
            h = super().forward(x)
            return h * 2 if h.sum() > 0 else h

    assert agree(members(Splits, 16), X)
    monkeypatch.setattr(shadow.Shadow, "restore", lambda self: None)
    with pytest.raises(AssertionError, match=r"norm\.(running|num)"):
        agree(members(Splits, 16), X)


def test_an_order_mixed_up_is_told(agree, members, monkeypatch):
    mixed = [
        m for pair in zip(members(Net, 3), members(nn.Linear, 3, 3, 2), strict=True) for m in pair
    ]
    assert agree(mixed, X)
    merge = outputs._merge_tensors
    monkeypatch.setattr(outputs, "_merge_tensors", lambda t, order: merge(t, sorted(order)))
    with pytest.raises(AssertionError, match="output"):
        agree(mixed, X)


def test_a_changed_input_is_told(agree, members, monkeypatch):
    class Writes(Net):
        def forward(self, x):
            return super().forward(x.mul_(2))

    from chimera.stack.each import Arguments

    assert agree(members(Writes, 4), X, gradients=False)
    monkeypatch.setattr(Arguments, "cloned", lambda self: self)
    with pytest.raises(AssertionError, match="an input was changed"):
        agree(members(Writes, 4), X, gradients=False)
