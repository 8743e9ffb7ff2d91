"""The steps of ``RNN``, ``GRU`` and ``LSTM``, forward and back, in memory made once.

``PASSES`` maps a mode to its two passes. Forward turns the input's part of the gates of all steps
into what the backward wants of them, fills the hidden states in, and gives what is to be saved and
the last state. Backward gives the gradients of the input's part of the gates, of the state's part,
and of the first state: each gate's is a multiple, known for all steps at once, of the gradient of
the step's state, so that a step back is a product and a few multiplications.

Gates stand in torch's order: of an LSTM entry, forget, cell, exit; of a GRU reset, update, new. The
equations are those of torch's documentation.

Shapes: N members, T steps, B sequences, H hidden, G gates times H. What steps fill in has the step
first, ``[T, N, B, ...]``, so that a step's numbers lie together; what products over all steps read
has the member first, ``[N, T, B, ...]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from chimera.stack.rules.steps import State

_aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Given:
    """What both passes know.

    Attributes:
        mode: of the layer.
        order: the steps in the order of the forward.
        w_hh: ``[N, G, H]``.
        y: the hidden states of all steps ``[N, T, B, H]``.
    """

    mode: str
    order: range
    w_hh: Tensor
    y: Tensor


@dataclass(frozen=True, slots=True)
class Back:
    """What the backward gets.

    Attributes:
        saved: of the forward.
        before: the hidden state before every step ``[N, T, B, H]``.
        state: before the first step.
        d_y: of the hidden states.
        d_last: of the last state; the pass may change it.
    """

    saved: tuple[Tensor, ...]
    before: Tensor
    state: State
    d_y: Tensor
    d_last: State


@dataclass(frozen=True, slots=True)
class Passes:
    """The two passes of a mode.

    Attributes:
        forward: of the given, the input's part of the gates ``[T, N, B, G]`` (to be changed), the
            state's bias or None, the state; gives what to save, and the last state.
        backward: gives the gradients of the two parts of the gates ``[N, T, B, G]``, and of the
            state.
        apart: the state's part counts apart from the sum: its bias is added to it alone, and its
            gradient has the last gate first.
    """

    forward: Callable[[Given, Tensor, Tensor | None, State], tuple[State, State]]
    backward: Callable[[Given, Back], tuple[Tensor, Tensor, State]]
    apart: bool = False


def _rnn(given: Given, gates: Tensor, b_hh: Tensor | None, state: State) -> tuple[State, State]:
    hidden, w_NHG = state[0], given.w_hh.transpose(1, 2)
    of_step, ys = gates.unbind(0), given.y.unbind(1)
    for at in given.order:
        of_step[at].baddbmm_(hidden, w_NHG)
        if given.mode == "RNN_TANH":
            hidden = torch.tanh(of_step[at], out=ys[at])
        else:
            hidden = torch.clamp_min(of_step[at], 0, out=ys[at])
    return (), (hidden.clone(),)


def _rnn_back(given: Given, back: Back) -> tuple[Tensor, Tensor, State]:
    y, (d_hidden,) = given.y, back.d_last
    if given.mode == "RNN_TANH":
        d_gates = _aten.tanh_backward(torch.ones_like(y), y)
    else:
        d_gates = (y <= 0).logical_not().to(y.dtype)
    d_steps, d_ys = d_gates.unbind(1), back.d_y.unbind(1)
    for at in reversed(given.order):
        d_steps[at].mul_(d_hidden.add_(d_ys[at]))
        torch.bmm(d_steps[at], given.w_hh, out=d_hidden)
    return d_gates, d_gates, (d_hidden,)


def _gru(given: Given, gates: Tensor, b_hh: Tensor | None, state: State) -> tuple[State, State]:
    hidden, w_NHG = state[0], given.w_hh.transpose(1, 2)
    size = hidden.shape[-1]
    inner = torch.empty_like(gates)  # the state's part of the gates
    inners, ys = inner.unbind(0), given.y.unbind(1)
    inner_both, inner_new = _split(inner, 2 * size)
    both, new = _split(gates, 2 * size)
    reset, update = _split(gates[..., : 2 * size], size)
    for at in given.order:
        if b_hh is None:
            torch.bmm(hidden, w_NHG, out=inners[at])
        else:
            torch.baddbmm(b_hh.unsqueeze(1), hidden, w_NHG, out=inners[at])
        both[at].add_(inner_both[at]).sigmoid_()
        new[at].addcmul_(reset[at], inner_new[at]).tanh_()
        hidden = torch.lerp(new[at], hidden, update[at], out=ys[at])
    return (gates, inner[..., 2 * size :]), (hidden.clone(),)


def _gru_back(given: Given, back: Back) -> tuple[Tensor, Tensor, State]:
    (gates, inner_new), (d_hidden,) = back.saved, back.d_last
    n, t, b, size = given.y.shape
    d_all = given.y.new_empty(n, t, b, 4 * size)  # of inner new, reset, update, new
    d_inner, d_reset, d_update, d_new = d_all.transpose(0, 1).chunk(4, -1)
    reset, update, new = gates.chunk(3, -1)
    _aten.tanh_backward.grad_input(1 - update, new, grad_input=d_new)
    torch.mul(d_new, reset, out=d_inner)
    _aten.sigmoid_backward.grad_input(inner_new, reset, grad_input=d_reset)
    d_reset.mul_(d_new)
    torch.sub(back.before.transpose(0, 1), new, out=d_update)
    _aten.sigmoid_backward.grad_input(d_update, update, grad_input=d_update)
    turned = turn(given.w_hh, 2 * size)
    d_steps, d_inners = d_all.view(n, t, b, 4, size).unbind(1), d_all[..., : 3 * size].unbind(1)
    d_ys, updates = back.d_y.unbind(1), update.unbind(0)
    for at in reversed(given.order):
        d_steps[at].mul_(d_hidden.add_(d_ys[at]).unsqueeze(2))
        d_hidden.mul_(updates[at]).baddbmm_(d_inners[at], turned)
    return d_all[..., size:], d_all[..., : 3 * size], (d_hidden,)


def turn(tensor: Tensor, at: int) -> Tensor:
    """``[N, G, ...]`` with what stands from ``at`` on first."""
    return torch.cat([tensor[:, at:], tensor[:, :at]], 1)


def _split(tensor: Tensor, at: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The views of every step of the features before ``at``, and of those from there on."""
    return tensor[..., :at].unbind(0), tensor[..., at:].unbind(0)


def _lstm(given: Given, gates: Tensor, b_hh: Tensor | None, state: State) -> tuple[State, State]:
    (hidden, cell), w_NHG = state, given.w_hh.transpose(1, 2)
    t, n, b, _ = gates.shape
    size = hidden.shape[-1]
    cells, squashed = gates.new_empty(2, t, n, b, size).unbind(0)
    of_step, ys = gates.unbind(0), given.y.unbind(1)
    both, _ = _split(gates, 2 * size)
    entry, forget = _split(gates[..., : 2 * size], size)
    new, exit_ = _split(gates[..., 2 * size :], size)
    of_cell, of_squashed = cells.unbind(0), squashed.unbind(0)
    for at in given.order:
        of_step[at].baddbmm_(hidden, w_NHG)
        both[at].sigmoid_()
        new[at].tanh_()
        exit_[at].sigmoid_()
        cell = torch.mul(forget[at], cell, out=of_cell[at]).addcmul_(entry[at], new[at])
        hidden = torch.mul(exit_[at], torch.tanh(cell, out=of_squashed[at]), out=ys[at])
    return (gates, cells, squashed), (hidden.clone(), cell.clone())


def _lstm_back(given: Given, back: Back) -> tuple[Tensor, Tensor, State]:
    (gates, cells, squashed), (d_hidden, d_cell) = back.saved, back.d_last
    n, t, b, size = given.y.shape
    entry, forget, new, exit_ = gates.chunk(4, -1)
    d_gates = given.y.new_empty(n, t, b, 4 * size)
    d_entry, d_forget, d_new, d_exit = d_gates.transpose(0, 1).chunk(4, -1)
    _aten.sigmoid_backward.grad_input(new, entry, grad_input=d_entry)
    _aten.tanh_backward.grad_input(entry, new, grad_input=d_new)
    _aten.sigmoid_backward.grad_input(squashed, exit_, grad_input=d_exit)
    d_forget[given.order[0]] = back.state[1]
    earlier, later = (slice(-1), slice(1, None))[:: given.order.step]
    d_forget[later] = cells[earlier]
    _aten.sigmoid_backward.grad_input(d_forget, forget, grad_input=d_forget)
    of_cell = _aten.tanh_backward(exit_, squashed).unbind(0)
    d_steps, d_ys, forgets = d_gates.unbind(1), back.d_y.unbind(1), forget.unbind(0)
    d_exits = d_exit.unbind(0)
    d_threes = d_gates.view(n, t, b, 4, size)[..., :3, :].unbind(1)
    for at in reversed(given.order):
        d_exits[at].mul_(d_hidden.add_(d_ys[at]))
        d_threes[at].mul_(d_cell.addcmul_(d_hidden, of_cell[at]).unsqueeze(2))
        d_cell.mul_(forgets[at])
        torch.bmm(d_steps[at], given.w_hh, out=d_hidden)
    return d_gates, d_gates, (d_hidden, d_cell)


PASSES: dict[str, Passes] = {
    "RNN_TANH": Passes(_rnn, _rnn_back),
    "RNN_RELU": Passes(_rnn, _rnn_back),
    "GRU": Passes(_gru, _gru_back, apart=True),
    "LSTM": Passes(_lstm, _lstm_back),
}
