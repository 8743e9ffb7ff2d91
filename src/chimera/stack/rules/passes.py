"""The steps of ``RNN``, ``GRU`` and ``LSTM``, forward and back, in memory made once.

`PASSES` maps a mode to its two passes. Forward fills the hidden states in, and gives what is to
be saved and the last state. Backward gives the gradients of the input's part of the gates, of the
state's part, and of the first state: each gate's is a multiple, known before, of the gradient of
the step's state, so that a step back is a product and a few multiplications. An LSTM's are taken
in the forward, where a step's numbers are in the cache still.

Gates stand in torch's order: of an LSTM entry, forget, cell, exit; of a GRU reset, update, new. The
equations are those of torch's documentation.

Shapes: N members, T steps, B sequences, H hidden, G gates times H. What steps alone fill in has the
step first, ``[T, N, B, ...]``, so that a step's numbers lie together; what products over all steps
read or write has the member first, ``[N, T, B, ...]``. A product adds to memory that lies together:
into any other torch makes one product a member.
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
        state: before the first step.
    """

    mode: str
    order: range
    w_hh: Tensor
    y: Tensor
    state: State

    @property
    def follows(self) -> tuple[slice, slice]:
        """The steps that another one follows, and those that follow one, as they pair."""
        earlier, later = (slice(-1), slice(1, None))[:: self.order.step]
        return earlier, later


@dataclass(frozen=True, slots=True)
class Parts:
    """What the gates are the sum of, besides the state's product.

    Attributes:
        of_input: ``[N, T, B, G]``; the pass may change it.
        bias: ``[N, 1, G]`` or None.
        b_hh: the bias of the state's part where that counts apart, or None.
        wanted: whether a backward will follow.
    """

    of_input: Tensor
    bias: Tensor | None
    b_hh: Tensor | None
    wanted: bool

    def write(self, at: int, out: Tensor) -> Tensor:
        """The sum at a step, into ``out``."""
        if self.bias is None:
            return out.copy_(self.of_input[:, at])
        return torch.add(self.of_input[:, at], self.bias, out=out)


@dataclass(frozen=True, slots=True)
class Back:
    """What the backward gets.

    Attributes:
        saved: of the forward.
        d_y: of the hidden states.
        d_last: of the last state; the pass may change it.
    """

    saved: tuple[Tensor, ...]
    d_y: Tensor
    d_last: State


@dataclass(frozen=True, slots=True)
class Passes:
    """The two passes of a mode.

    Attributes:
        forward: gives what to save, and the last state.
        backward: gives the gradients of the two parts of the gates ``[N, T, B, G]``, and of the
            state.
        apart: the state's part counts apart from the sum: its bias is added to it alone, and its
            gradient has the last gate first.
    """

    forward: Callable[[Given, Parts], tuple[State, State]]
    backward: Callable[[Given, Back], tuple[Tensor, Tensor, State]]
    apart: bool = False


def _rnn(given: Given, parts: Parts) -> tuple[State, State]:
    (hidden,), w_NHG = given.state, given.w_hh.transpose(1, 2)
    gates, ys = hidden.new_empty(hidden.shape), given.y.unbind(1)
    for at in given.order:
        parts.write(at, gates).baddbmm_(hidden, w_NHG)
        if given.mode == "RNN_TANH":
            hidden = torch.tanh(gates, out=ys[at])
        else:
            hidden = torch.clamp_min(gates, 0, out=ys[at])
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


def _gru(given: Given, parts: Parts) -> tuple[State, State]:
    (hidden,), w_NHG, b_hh = given.state, given.w_hh.transpose(1, 2), parts.b_hh
    n, t, b, size = given.y.shape
    gates, inner = given.y.new_empty(2, t, n, b, 3 * size).unbind(0)  # the latter of the state
    of_step, inners, ys = gates.unbind(0), inner.unbind(0), given.y.unbind(1)
    inner_both, inner_new = _split(inner, 2 * size)
    both, new = _split(gates, 2 * size)
    reset, update = _split(gates[..., : 2 * size], size)
    for at in given.order:
        if b_hh is None:
            torch.bmm(hidden, w_NHG, out=inners[at])
        else:
            torch.baddbmm(b_hh.unsqueeze(1), hidden, w_NHG, out=inners[at])
        parts.write(at, of_step[at])
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
    earlier, later = given.follows
    torch.sub(given.y.transpose(0, 1)[earlier], new[later], out=d_update[later])
    first = given.order[0]
    torch.sub(given.state[0], new[first], out=d_update[first])
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


def _lstm(given: Given, parts: Parts) -> tuple[State, State]:
    (hidden, cell), w_NHG = given.state, given.w_hh.transpose(1, 2)
    n, t, b, size = given.y.shape
    gates = hidden.new_empty(n, b, 4 * size)
    entry, forget, new, exit_ = gates.chunk(4, -1)
    candidate, squashed = hidden.new_empty(2, n, b, size).unbind(0)
    forgets, of_cell, cells = hidden.new_empty(3, t, n, b, size).unbind(0)
    ys = given.y.unbind(1)
    multiples = parts.of_input if parts.wanted else parts.of_input[..., :0]
    of_gates = [part.unbind(1) for part in multiples.chunk(4, -1)]
    for at in given.order:
        parts.write(at, gates).baddbmm_(hidden, w_NHG)
        torch.tanh(new, out=candidate)
        gates.sigmoid_()
        before = cell
        cell = torch.mul(forget, before, out=cells[at]).addcmul_(entry, candidate)
        torch.tanh(cell, out=squashed)
        hidden = torch.mul(exit_, squashed, out=ys[at])
        if parts.wanted:
            d_entry, d_forget, d_new, d_exit = (part[at] for part in of_gates)
            _aten.sigmoid_backward.grad_input(candidate, entry, grad_input=d_entry)
            _aten.sigmoid_backward.grad_input(before, forget, grad_input=d_forget)
            _aten.tanh_backward.grad_input(entry, candidate, grad_input=d_new)
            _aten.sigmoid_backward.grad_input(squashed, exit_, grad_input=d_exit)
            _aten.tanh_backward.grad_input(exit_, squashed, grad_input=of_cell[at])
            forgets[at].copy_(forget)
    return (multiples, of_cell, forgets), (hidden.clone(), cell.clone())


def _lstm_back(given: Given, back: Back) -> tuple[Tensor, Tensor, State]:
    (multiples, of_cell, forgets), (d_hidden, d_cell) = back.saved, back.d_last
    d_gates = torch.empty_like(multiples)
    of_gates, d_steps, d_ys = multiples.unbind(1), d_gates.unbind(1), back.d_y.unbind(1)
    *d_of_cell, d_exit = (part.unbind(1) for part in d_gates.chunk(4, -1))
    for at in reversed(given.order):
        d_steps[at].copy_(of_gates[at])  # whole rows, so that what follows is in the cache
        d_cell.addcmul_(d_hidden.add_(d_ys[at]), of_cell[at])
        for part in d_of_cell:
            part[at].mul_(d_cell)
        d_exit[at].mul_(d_hidden)
        d_cell.mul_(forgets[at])
        torch.bmm(d_steps[at], given.w_hh, out=d_hidden)
    return d_gates, d_gates, (d_hidden, d_cell)


PASSES: dict[str, Passes] = {
    "RNN_TANH": Passes(_rnn, _rnn_back),
    "RNN_RELU": Passes(_rnn, _rnn_back),
    "GRU": Passes(_gru, _gru_back, apart=True),
    "LSTM": Passes(_lstm, _lstm_back),
}
