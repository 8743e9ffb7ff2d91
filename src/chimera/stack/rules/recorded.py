"""The steps of ``RNN``, ``GRU`` and ``LSTM``, forward and back, for a graph that is recorded.

As ``passes``, but every operation gives memory of its own: a compiler fuses what follows a product
into one loop, and needs no look at what is written where. ``RECORDED`` maps a mode to its step
forward and its step back; the equations are those of torch's documentation.

Shapes: N members, B sequences, H hidden, G gates times H; all of one step, ``[N, B, ...]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.stack.rules.steps import State, again, product

Grads = tuple[Tensor, Tensor, tuple[Tensor | None, ...]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The two steps of a mode.

    Attributes:
        forward: of the input's part of the gates, the state's part, the state; gives the next
            state, and what to save.
        backward: of the gradients of the next state, the state before the step, the next state,
            what was saved; gives the gradients of the two parts of the gates, and of the state
            past the product, None for nothing.
        apart: whether the state's bias is added to the state's part alone, not to the sum.
    """

    forward: Callable[[Tensor, Tensor, State], tuple[State, State]]
    backward: Callable[[State, State, State, State], Grads]
    apart: bool = False


def _rnn_tanh(x: Tensor, h: Tensor, state: State) -> tuple[State, State]:
    return (torch.tanh(x + h),), ()


def _rnn_tanh_back(grads: State, before: State, after: State, saved: State) -> Grads:
    d_gates = grads[0] * (1 - after[0] * after[0])
    return d_gates, d_gates, (None,)


def _rnn_relu(x: Tensor, h: Tensor, state: State) -> tuple[State, State]:
    return (torch.relu(x + h),), ()


def _rnn_relu_back(grads: State, before: State, after: State, saved: State) -> Grads:
    d_gates = torch.where(after[0] <= 0, 0.0, grads[0])
    return d_gates, d_gates, (None,)


def _gru(x: Tensor, h: Tensor, state: State) -> tuple[State, State]:
    (hidden,) = state
    x_reset, x_update, x_new = x.chunk(3, -1)
    h_reset, h_update, h_new = h.chunk(3, -1)
    reset, update = torch.sigmoid(x_reset + h_reset), torch.sigmoid(x_update + h_update)
    new = torch.tanh(x_new + reset * h_new)
    return (new + update * (hidden - new),), (reset, update, new, h_new)


def _gru_back(grads: State, before: State, after: State, saved: State) -> Grads:
    (d_hidden,), (hidden,), (reset, update, new, h_new) = grads, before, saved
    d_new = d_hidden * (1 - update) * (1 - new * new)
    d_update = d_hidden * (hidden - new) * update * (1 - update)
    d_reset = d_new * h_new * reset * (1 - reset)
    d_input = torch.cat([d_reset, d_update, d_new], -1)
    return d_input, torch.cat([d_reset, d_update, d_new * reset], -1), (d_hidden * update,)


def _lstm(x: Tensor, h: Tensor, state: State) -> tuple[State, State]:
    entry, forget, new, exit_ = (x + h).chunk(4, -1)
    entry, forget, exit_ = torch.sigmoid(entry), torch.sigmoid(forget), torch.sigmoid(exit_)
    new = torch.tanh(new)
    cell = forget * state[1] + entry * new
    squashed = torch.tanh(cell)
    return (exit_ * squashed, cell), (entry, forget, new, exit_, squashed)


def _lstm_back(grads: State, before: State, after: State, saved: State) -> Grads:
    (d_hidden, d_cell), (entry, forget, new, exit_, squashed) = grads, saved
    d_cell = d_cell + d_hidden * exit_ * (1 - squashed * squashed)
    d_gates = torch.cat(
        [
            d_cell * new * entry * (1 - entry),
            d_cell * before[1] * forget * (1 - forget),
            d_cell * entry * (1 - new * new),
            d_hidden * squashed * exit_ * (1 - exit_),
        ],
        -1,
    )
    return d_gates, d_gates, (None, d_cell * forget)


RECORDED: dict[str, Recorded] = {
    "RNN_TANH": Recorded(_rnn_tanh, _rnn_tanh_back),
    "RNN_RELU": Recorded(_rnn_relu, _rnn_relu_back),
    "GRU": Recorded(_gru, _gru_back, apart=True),
    "LSTM": Recorded(_lstm, _lstm_back),
}


class RecordedLayer(torch.autograd.Function):
    """y_NTBH and the last state, of mode, reverse, x_NTBI, the four weights, the state.

    Each weight's gradient is one product over all steps.
    """

    @staticmethod
    def forward(ctx: Any, mode: str, reverse: bool, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh, *state = rest
        n, t, b, _ = x.shape
        known = RECORDED[mode]
        bias = b_ih if known.apart or b_ih is None else b_ih + b_hh
        parts = product(x.flatten(1, 2), w_ih, bias).view(n, t, b, -1).unbind(1)
        after, of_steps = tuple(state), []
        for at in range(t)[::-1] if reverse else range(t):
            inner = product(after[0], w_hh, b_hh if known.apart else None)
            after, saved = known.forward(parts[at], inner, after)
            of_steps.append((*after, *saved))
        hidden = [values[0] for values in of_steps]
        ctx.mode, ctx.reverse, ctx.states = mode, reverse, len(state)
        ctx.save_for_backward(x, *rest, *(value for values in of_steps for value in values))
        return torch.stack(hidden[::-1] if reverse else hidden, 1), *after

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, *d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, b_ih, b_hh, *others = ctx.saved_tensors
        first, flat = tuple(others[: ctx.states]), others[ctx.states :]
        if torch.is_grad_enabled():
            inputs = [x, w_ih, w_hh, b_ih, b_hh, *first]
            needed = ctx.needs_input_grad[2:]
            return None, None, *again(ctx.mode, ctx.reverse, inputs, needed, (d_y, *d_last))
        known, count = RECORDED[ctx.mode], len(flat) // x.shape[1]
        of_steps = [tuple(flat[i : i + count]) for i in range(0, len(flat), count)]
        states = [first, *(values[: ctx.states] for values in of_steps)]
        d_ys = d_y.unbind(1)
        d_ys = d_ys[::-1] if ctx.reverse else d_ys
        d_state: tuple[Tensor, ...] = d_last
        d_inputs, d_inners = [], []
        for i in reversed(range(len(of_steps))):
            grads = (d_state[0] + d_ys[i], *d_state[1:])
            saved = of_steps[i][ctx.states :]
            d_input, d_inner, past = known.backward(grads, states[i], states[i + 1], saved)
            through = torch.bmm(d_inner, w_hh)
            d_hidden = through if past[0] is None else through + past[0]
            d_state = (d_hidden, *(each for each in past[1:] if each is not None))
            d_inputs.append(d_input)
            d_inners.append(d_inner)
        before = [values[0] for values in states[:-1]]
        if not ctx.reverse:
            d_inputs, d_inners = d_inputs[::-1], d_inners[::-1]
        else:
            before = before[::-1]
        of_input = torch.stack(d_inputs, 1).flatten(1, 2)
        of_inner = torch.stack(d_inners, 1).flatten(1, 2) if known.apart else of_input
        return (
            *(None, None),
            torch.bmm(of_input, w_ih).view(x.shape) if ctx.needs_input_grad[2] else None,
            torch.bmm(of_input.transpose(1, 2), x.flatten(1, 2)),
            torch.bmm(of_inner.transpose(1, 2), torch.stack(before, 1).flatten(1, 2)),
            None if b_ih is None else of_input.sum(1),
            None if b_hh is None else of_inner.sum(1),
            *d_state,
        )
