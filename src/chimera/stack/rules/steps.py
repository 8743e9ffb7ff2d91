"""One step of the recurrent layers, and a whole sequence of steps, for all members at once.

The equations are those of torch's documentation of ``RNN``, ``LSTM`` and ``GRU``.

Shapes: N members, T steps, B sequences, I input features, H hidden, P the hidden state's (H, or
the projection's), G gates times H; x_NTBI, h_NBP, c_NBH, gates_NBG.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one layer in one direction.

    Attributes:
        w_ih: ``[N, G, I]``.
        w_hh: ``[N, G, P]``.
        b_ih: ``[N, G]`` or None.
        b_hh: ``[N, G]`` or None.
        w_hr: of a projection ``[N, P, H]`` or None.
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None


def product(x_NBI: Tensor, w_NOI: Tensor, b_NO: Tensor | None) -> Tensor:
    """Every member's linear map of its rows."""
    if b_NO is None:
        return torch.bmm(x_NBI, w_NOI.transpose(1, 2))
    return torch.baddbmm(b_NO.unsqueeze(1), x_NBI, w_NOI.transpose(1, 2))


def _rnn_tanh(x: Tensor, h: Tensor, state: State, w: Weights) -> State:
    return (torch.tanh(x + h),)


def _rnn_relu(x: Tensor, h: Tensor, state: State, w: Weights) -> State:
    return (torch.relu(x + h),)


def _gru(x: Tensor, h: Tensor, state: State, w: Weights) -> State:
    size = state[0].shape[-1]
    gates = torch.sigmoid(x[..., : 2 * size] + h[..., : 2 * size])
    reset, update = gates.chunk(2, -1)
    new = torch.tanh(torch.addcmul(x[..., 2 * size :], reset, h[..., 2 * size :]))
    return (torch.lerp(new, state[0], update),)


def _lstm(x: Tensor, h: Tensor, state: State, w: Weights) -> State:
    gates = x + h
    size = state[1].shape[-1]
    entry, forget = torch.sigmoid(gates[..., : 2 * size]).chunk(2, -1)
    cell = torch.tanh(gates[..., 2 * size : 3 * size])
    exit_ = torch.sigmoid(gates[..., 3 * size :])
    c = torch.addcmul(forget * state[1], entry, cell)
    hidden = exit_ * torch.tanh(c)
    if w.w_hr is not None:
        hidden = torch.bmm(hidden, w.w_hr.transpose(1, 2))
    return hidden, c


Step = Callable[[Tensor, Tensor, State, Weights], State]
# For every mode what makes the next state of: the input's part of the gates, the state's part, the
# state, the weights.
STEPS: dict[str, Step] = {
    "RNN_TANH": _rnn_tanh,
    "RNN_RELU": _rnn_relu,
    "GRU": _gru,
    "LSTM": _lstm,
}


def one_step(
    mode: str, x_NBI: Tensor, state: State, w: Weights, steps: Mapping[str, Step] = STEPS
) -> State:
    """The state after one input."""
    gates = product(x_NBI, w.w_ih, w.b_ih)
    return steps[mode](gates, product(state[0], w.w_hh, w.b_hh), state, w)


def sequence(
    mode: str,
    x_NTBI: Tensor,
    state: State,
    w: Weights,
    mask_TB: Tensor | None,
    reverse: bool,
    steps: Mapping[str, Step] = STEPS,
) -> tuple[Tensor, State]:
    """The hidden states of all steps ``[N, T, B, P]``, and the last state.

    Args:
        mode: of the layer.
        x_NTBI: the inputs.
        state: before the first step.
        w: the weights.
        mask_TB: which sequences reach which step; None for all.
        reverse: from the last step to the first.
        steps: for every mode its step.
    """
    n, t, b, i = x_NTBI.shape
    gates_NTBG = product(x_NTBI.reshape(n, t * b, i), w.w_ih, w.b_ih).view(n, t, b, -1)
    of_step = gates_NTBG.transpose(0, 1).contiguous().unbind(0)
    step = steps[mode]
    outputs: list[Tensor] = [gates_NTBG] * t
    for at in reversed(range(t)) if reverse else range(t):
        after = step(of_step[at], product(state[0], w.w_hh, w.b_hh), state, w)
        if mask_TB is not None:
            reached = mask_TB[at].view(1, b, 1)
            after = tuple(
                torch.where(reached, new, old) for new, old in zip(after, state, strict=True)
            )
        state = after
        outputs[at] = state[0]
    return torch.stack(outputs, 1), state


def again(
    mode: str,
    reverse: bool,
    inputs: Sequence[Any],
    needed: Sequence[bool],
    d_outputs: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """The gradients of ``sequence`` by operations that can be differentiated themselves.

    Args:
        mode: of the layer.
        reverse: from the last step to the first.
        inputs: the input, the four weights, the state.
        needed: which of them need a gradient; the others get None.
        d_outputs: the gradients of the hidden states and of the last state.
    """
    x, w_ih, w_hh, b_ih, b_hh, *state = inputs
    y, last = sequence(mode, x, tuple(state), Weights(w_ih, w_hh, b_ih, b_hh), None, reverse)
    wanted = [each for each, need in zip(inputs, needed, strict=True) if need]
    grads = iter(torch.autograd.grad((y, *last), wanted, d_outputs, create_graph=True))
    return [next(grads) if need else None for need in needed]
