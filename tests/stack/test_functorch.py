"""The short way into vmap: the same as torch's own, and there in the torch that is installed."""

import importlib

import pytest
import torch

import chimera as ch
from chimera.stack import functorch as room
from chimera.stack.functorch import over_members


def test_the_private_names_are_there():
    assert importlib.reload(room).PRIVATE, "torch moved a name: the short way is not taken any more"


@pytest.fixture(params=["private", "public"])
def way(request, monkeypatch):
    monkeypatch.setattr(room, "PRIVATE", request.param == "private")
    return request.param


def run(function, *tensors, size=3, randomness="error"):
    return over_members(function, tensors, size, randomness=randomness, public=False)


def test_results_carry_the_member_axis_first(way):
    x, w = torch.randn(3, 4, 2), torch.randn(3, 2, requires_grad=True)
    product, total, shared = run(lambda a, b: (a @ b, a.T, torch.ones(2)), x, w)
    torch.testing.assert_close(product, torch.bmm(x, w.unsqueeze(2)).squeeze(2))
    torch.testing.assert_close(total, x.transpose(1, 2))
    assert shared.shape == (3, 2)
    (grad,) = torch.autograd.grad(product.sum(), w)
    torch.testing.assert_close(grad, x.sum(1))


def test_members_without_tensors_count(way):
    assert run(lambda: (torch.ones(2),), size=5)[0].shape == (5, 2)


def test_draws_are_refused_or_differ(way):
    x = torch.ones(3, 4)
    with pytest.raises(RuntimeError, match="random"):
        run(lambda a: (torch.rand_like(a),), x)
    (drawn,) = run(lambda a: (torch.rand_like(a),), x, randomness="different")
    assert drawn.unique().numel() > 4


def test_an_error_inside_leaves_vmap(way):
    def fails(a):
        raise KeyError("inside")

    for _ in range(2):
        with pytest.raises(KeyError, match="inside"):
            run(fails, torch.ones(3))
    (again,) = torch.vmap(lambda a: (a * 2,))(torch.ones(3))
    assert again.shape == (3,)


def test_stacks_are_the_loop(way):
    nets = ch.instances(lambda: torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU()), 4)
    stack = ch.Stack(nets)
    for _ in range(3):  # the first call takes the public way, whatever is there
        ch.verify(stack, torch.randn(2, 3), raises=True)
