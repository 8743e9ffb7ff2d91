"""Recurrent layers over whole sequences: the passes, the graph that autograd makes, the loop."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import chimera as ch
from chimera.stack.rules.passes import PASSES
from chimera.stack.rules.recorded import RecordedLayer
from chimera.stack.rules.sequences import layer
from chimera.stack.rules.steps import Weights, sequence

MODES = sorted(PASSES)
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}
Made = tuple[Tensor, tuple[Tensor, ...], list[Tensor | None]]


def made(mode: str, n: int, t: int, b: int, i: int, h: int, *, biased: bool = True) -> Made:
    """Inputs, state and weights in float64, all with gradients."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).requires_grad_()

    gates = GATES[mode] * h
    biases = [normal(n, gates) if biased else None for _ in range(2)]
    state = tuple(normal(n, b, h) for _ in range(1 + (mode == "LSTM")))
    return normal(n, t, b, i), state, [normal(n, gates, i), normal(n, gates, h), *biases]


def both(mode: str, values: Made, reverse: bool) -> list[list[Tensor]]:
    """The outputs of the passes and of the recorded steps."""
    x, state, weights = values
    ours = layer(mode, x, state, Weights(*weights), reverse)
    theirs = sequence(mode, x, state, Weights(*weights), None, reverse)
    return [[y, *last] for y, last in (ours, theirs)]


def leaves(values: Made) -> list[Tensor]:
    x, state, weights = values
    return [x, *state, *(weight for weight in weights if weight is not None)]


def score(outputs: list[Tensor]) -> Tensor:
    return sum(((k + 1) * output**2).sum() for k, output in enumerate(outputs))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(MODES),
    st.tuples(*[st.integers(1, 4)] * 5),
    st.booleans(),
    st.booleans(),
)
def test_passes_are_the_recorded_steps(
    mode: str, sizes: tuple[int, ...], biased: bool, reverse: bool
) -> None:
    torch.manual_seed(0)
    values = made(mode, *sizes, biased=biased)
    ours, theirs = both(mode, values, reverse)
    assert "_Layer" in type(ours[0].grad_fn).__name__
    torch.testing.assert_close(ours, theirs)
    inputs = leaves(values)
    grads, expected = (torch.autograd.grad(score(out), inputs) for out in (ours, theirs))
    torch.testing.assert_close(grads, expected)


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives(mode: str) -> None:
    torch.manual_seed(0)
    values = made(mode, 2, 3, 2, 2, 3)
    inputs = leaves(values)
    seconds = []
    for outputs in both(mode, values, reverse=False):
        firsts = torch.autograd.grad(score(outputs), inputs, create_graph=True)
        seconds.append(torch.autograd.grad(score(list(firsts)), inputs))
    torch.testing.assert_close(seconds[0], seconds[1])


@pytest.mark.parametrize("mode", MODES)
def test_a_backward_can_run_twice_and_for_some_inputs_alone(mode: str) -> None:
    torch.manual_seed(0)
    x, state, weights = made(mode, 2, 3, 2, 2, 3)
    outputs, _ = both(mode, (x, state, weights), reverse=True)
    first = torch.autograd.grad(score(outputs), [x, weights[1]], retain_graph=True)
    assert torch.equal(x, x.clone())
    torch.testing.assert_close(torch.autograd.grad(score(outputs), [x, weights[1]]), first)
    alone = layer(mode, x.detach(), state, Weights(*(w.detach() for w in weights)), True)
    only = torch.autograd.grad(score([alone[0], *alone[1]]), state)
    outputs, _ = both(mode, (x, state, weights), reverse=True)
    torch.testing.assert_close(only, torch.autograd.grad(score(outputs), state))


@pytest.mark.parametrize("mode", MODES)
def test_the_memory_of_a_forward_is_not_the_callers(mode: str) -> None:
    torch.manual_seed(0)
    x, state, weights = made(mode, 2, 3, 2, 2, 3)
    y, last = layer(mode, x, state, Weights(*weights), False)
    kept = y.detach().clone()
    for each in last:
        each.detach().zero_()
    assert torch.equal(y, kept)
    y.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_nan_passes_through_relu() -> None:
    x, state, weights = made("RNN_RELU", 1, 2, 1, 1, 1)
    with torch.no_grad():
        x[:, 0] = float("nan")
    ours, theirs = both("RNN_RELU", (x, state, weights), reverse=False)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    grads = [torch.autograd.grad(out[0].sum(), x)[0] for out in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1], equal_nan=True)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_recording_is_the_recorded_steps(mode: str, biased: bool, reverse: bool) -> None:
    torch.manual_seed(0)
    values = made(mode, 2, 3, 2, 2, 3, biased=biased)
    _, theirs = both(mode, values, reverse)
    inputs = leaves(values)
    expected = [*theirs, *torch.autograd.grad(score(theirs), inputs)]

    def run(*flat: Tensor) -> list[Tensor]:
        mine = iter(each.detach().requires_grad_() for each in flat)
        x, state = next(mine), tuple(next(mine) for _ in values[1])
        w = Weights(*(None if known is None else next(mine) for known in values[2]))
        with torch.enable_grad():
            y, last = layer(mode, x, state, w, reverse)
            used = [x, *state, *(t for t in (w.w_ih, w.w_hh, w.b_ih, w.b_hh) if t is not None)]
            return [y, *last, *torch.autograd.grad(score([y, *last]), used)]

    graph = make_fx(run)(*(each.detach() for each in inputs))
    torch.testing.assert_close(graph(*(each.detach() for each in inputs)), expected)
    again = [each.detach() * 0.5 for each in inputs]  # nothing of the first call is held
    torch.testing.assert_close(graph(*again), run(*again))
    names = {str(node.target) for node in graph.graph.nodes}
    assert not [name for name in names if name.endswith(".out") or "_." in name]


def test_a_recording_refuses_nothing_of_second_derivatives() -> None:
    torch.manual_seed(0)
    x, state, weights = made("GRU", 2, 3, 2, 2, 3)
    inputs = leaves((x, state, weights))
    y, *last = RecordedLayer.apply("GRU", False, x, *weights, *state)
    _, theirs = both("GRU", (x, state, weights), reverse=False)
    seconds = []
    for outputs in ([y, *last], theirs):
        firsts = torch.autograd.grad(score(outputs), inputs, create_graph=True)
        seconds.append(torch.autograd.grad(score(list(firsts)), inputs))
    torch.testing.assert_close(seconds[0], seconds[1])


def modules(kind: Callable[..., nn.Module], **kwargs: Any) -> list[nn.Module]:
    torch.manual_seed(0)
    return [kind(3, 4, **kwargs).double() for _ in range(4)]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"bidirectional": True, "num_layers": 2},
        {"batch_first": True, "bias": False},
        {"dropout": 0.5, "num_layers": 3},
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_members_are_themselves(
    kind: Callable[..., nn.Module], kwargs: dict[str, Any], own: bool
) -> None:
    stack = ch.Stack(modules(kind, **kwargs))
    x = torch.randn(*([4] if own else []), 5, 2, 3, dtype=torch.float64)
    ch.verify(stack, ch.each(x) if own else x)
    assert "one by one" not in str(ch.explain(stack))


class Packed(nn.Module):
    """A recurrent layer on sequences of different lengths."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]))
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0])[0]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("packed", [False, True])
def test_dropouts_of_their_own_stay_in_one_group(
    kind: Callable[..., nn.Module], packed: bool
) -> None:
    torch.manual_seed(0)
    layers = [kind(3, 40, num_layers=2, dropout=p).double() for p in (0.1, 0.5, 0.8)]
    stack = ch.Stack(list(map(Packed, layers)) if packed else layers, seed=3)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    assert len(stack.parts()) == 1
    ch.verify(stack, x)
    stack.calls = 0
    output = stack(x) if packed else stack(x)[0]
    for index in range(3):
        with ch.randomness(seed=3, member=index, step=0):
            alone = stack[index](x)
        torch.testing.assert_close(output[index], alone if packed else alone[0])
    assert "one by one" not in str(ch.explain(stack))
    ch.verify(stack.eval(), x)


def test_a_dropout_of_one_layer_says_nothing() -> None:
    with pytest.warns(UserWarning, match="non-zero dropout"):
        members = [nn.GRU(3, 4, dropout=p) for p in (0.1, 0.5)]
    stack = ch.Stack(members)
    assert len(stack.parts()) == 1
    ch.verify(stack, torch.randn(5, 2, 3))
