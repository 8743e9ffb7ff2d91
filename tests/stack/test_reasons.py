"""The reasons of ``explain`` are sentences of the module, not torch's texts of vmap."""

import pytest
import torch
from torch import nn

import chimera as ch


class Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)


class Unique(Base):
    def forward(self, x):
        return torch.unique((self.layer(x) > 0).int()).sum() + self.layer(x)


class Wheres(Base):
    def forward(self, x):
        return self.layer(x) + len(torch.where(self.layer(x) > 0)[0])


class Scatters(Base):
    def forward(self, x):
        return torch.zeros(4, 3, dtype=x.dtype).index_add_(0, torch.tensor([0, 1]), self.layer(x))


class Custom(Base):
    def forward(self, x):
        return Squares.apply(self.layer(x))


class Reads(Base):
    def forward(self, x):
        return self.layer(x) + float(self.layer(x).detach().numpy().sum())


class Parts(Base):
    def forward(self, x):
        y = self.layer(x)
        return y * 2 if y.sum() > 0 else y


REASONS = {
    Unique: "unique gives a result whose shape depends on the data",
    Wheres: "where gives a result whose shape depends on the data",
    Scatters: "index_add_ writes what is a member's own into a tensor that all members share",
    Custom: "a torch.autograd.Function without setup_context",
    Reads: "forward reads the memory of a tensor (storage)",
    Parts: "conditions on data part the 3 members",
}


@pytest.mark.parametrize("kind", REASONS)
def test_said_in_our_words(kind):
    torch.manual_seed(0)
    members = [kind() for _ in range(3)]
    for sign, member in zip((1, -1, 1), members, strict=True):
        nn.init.constant_(member.layer.bias, 5.0 * sign)
    stack = ch.Stack(members)
    x = torch.rand(2, 3)
    stack(x)
    (reason,) = {row.reason for row in ch.explain(stack).alone}
    assert reason.startswith(REASONS[kind])
    assert "vmap:" not in reason
    ch.verify(stack, x, raises=True)
