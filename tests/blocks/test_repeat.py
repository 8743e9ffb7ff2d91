"""Repeat against a chain written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chimera as ch


class Scaled(nn.Module):
    def __init__(self, width, bias=True):
        super().__init__()
        self.linear = nn.Linear(width, width, bias)

    def forward(self, x, scale=1.0):
        return self.linear(x) * scale


ONE = nn.ReLU()


def always_the_same():
    return ONE


@given(st.integers(1, 5), st.booleans())
def test_is_the_chain_written_out(n, share):
    torch.manual_seed(n)
    net, x = ch.Repeat(Scaled, n, 3, bias=False, share=share), torch.rand(2, 3)
    assert torch.equal(net(x), ch.Sequential(*net)(x))
    assert len(net) == len(list(net)) == n
    made = 1 if share else n
    assert list(net.state_dict()) == [f"{i}.linear.weight" for i in range(made)]
    assert len({id(p) for p in net.parameters()}) == made
    assert len({float(p.sum().detach()) for p in net.parameters()}) == made
    assert net[-1] is list(net)[-1]


def test_further_inputs_go_to_every_instance():
    net, x = ch.Repeat(Scaled, 3, 2), torch.rand(2, 2)
    wanted = x
    for module in net:
        wanted = module(wanted, 2.0)
    assert torch.equal(net(x, 2.0), wanted)
    assert torch.equal(net(x, scale=2.0), wanted)


def test_shared_gradients_are_the_sum_over_the_turns():
    layer, x = nn.Linear(2, 2), torch.rand(3, 2)
    net = ch.Repeat(layer, 3, share=True)
    assert net[0] is layer
    grads = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    wanted = torch.autograd.grad(layer(layer(layer(x))).sum(), list(layer.parameters()))
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want)
    assert "3 times, shared" in repr(net)


def test_a_factory_may_be_a_function_or_shared():
    assert len(ch.Repeat(lambda: nn.ReLU(), 2)) == 2
    assert len(list(ch.Repeat(nn.Linear, 4, 2, 2, share=True).parameters())) == 2


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: ch.Repeat(nn.Linear(1, 1), 2),
            TypeError,
            "instance of Linear; pass a class.*share=True",
        ),
        (lambda: ch.Repeat(nn.Linear(1, 1), 2, 3, share=True), TypeError, "takes no arguments"),
        (lambda: ch.Repeat(nn.ReLU, 0), ValueError, "n is 1 or more; got 0"),
        (lambda: ch.Repeat(nn.ReLU, 2.0), TypeError, "n is an int; got 2.0"),
        (lambda: ch.Repeat(nn.ReLU, True), TypeError, "n is an int"),
        (lambda: ch.Repeat(lambda: 3, 2), TypeError, "what factory gave is 3"),
        (lambda: ch.Repeat(lambda: nn.ReLU, 2), TypeError, "what factory gave is the class"),
        (lambda: ch.Repeat(3, 2), TypeError, "factory is 3"),
        (lambda: ch.Repeat(nn.ReLU, 2, share="no"), TypeError, "share must be True or False"),
        (lambda: ch.Repeat(always_the_same, 2), ValueError, "one module twice.*share=True"),
    ],
)
def test_mistakes_are_caught_when_the_block_is_made(make, error, words):
    with pytest.raises(error, match=words):
        make()
