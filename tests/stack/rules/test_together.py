"""Both ways out of vmap, and the private names of torch that the short one takes."""

import importlib

import pytest
import torch

import chimera as ch
from chimera.stack.rules import together as room
from chimera.stack.rules.together import is_together, together


def _weighted(size, x, w, factor):
    assert x.shape[0] == w.shape[0] == size
    return torch.bmm(x, w) * factor, x.sum(-1)


@pytest.fixture(params=["private", "public"])
def way(request, monkeypatch):
    monkeypatch.setattr(room, "PRIVATE", request.param == "private")
    return request.param


def test_the_private_names_are_there():
    assert importlib.reload(room).PRIVATE, "torch moved a name: the short way is not taken any more"


@pytest.mark.parametrize("dims", [(0, 0), (1, 2), (None, 0), (2, 1)])
def test_tensors_come_with_the_members_first(way, dims):
    x, w = torch.randn(4, 5, 6, dtype=torch.float64), torch.randn(4, 6, 3, dtype=torch.float64)
    x = x if dims[0] is not None else x[0]
    placed = [
        t if d is None else t.movedim(0, d).detach().requires_grad_()
        for t, d in zip((x, w), dims, strict=True)
    ]
    out, total = torch.vmap(lambda a, b: together(_weighted, a, b, 2.0), in_dims=dims)(*placed)
    members = x if dims[0] is not None else x.expand(4, *x.shape)
    torch.testing.assert_close(out, torch.bmm(members, w) * 2)
    torch.testing.assert_close(total, members.sum(-1))
    (grad,) = torch.autograd.grad(out.sum(), placed[1])
    torch.testing.assert_close(
        grad.movedim(dims[1], 0), (members.sum(1).unsqueeze(2) * 2).expand_as(w)
    )


def test_a_users_own_vmap_in_between_is_right(way):
    class Nested(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x):
            return torch.vmap(self.layer)(x) + torch.func.jacrev(self.layer)(x[0]).sum()

    stack = ch.Stack([Nested() for _ in range(5)])
    ch.verify(stack, torch.randn(4, 3), raises=True)


def test_outside_of_vmap_nothing_is_together():
    assert not is_together(torch.ones(2))
    torch.vmap(lambda x: (_check(is_together(x)), x)[1])(torch.ones(2))


def _check(truth):
    assert truth


def test_the_innermost_draw_answers(way):
    # A draw on all members' tensors belongs to the mode around, not to vmap's randomness.
    stack = ch.Stack(
        [torch.nn.LSTM(3, 4, num_layers=2, dropout=0.5).double() for _ in range(3)], seed=5
    )
    ch.verify(stack, torch.randn(6, 2, 3, dtype=torch.float64), raises=True)
    assert not ch.explain(stack).alone
