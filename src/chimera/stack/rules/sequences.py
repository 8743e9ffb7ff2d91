"""A layer of ``RNN``, ``LSTM`` or ``GRU`` over a whole sequence, with a backward of its own.

autograd records some ten operations a step and runs twice as many back, each with memory of its
own. Here the input's part of all steps is one product, so is each weight's gradient, and the steps
are ``passes``. A second derivative goes through ``steps``.

Shapes: N members, T steps, B sequences, I input features, H hidden, G gates times H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from chimera.stack.rules.passes import PASSES, Back, Given, turn
from chimera.stack.rules.recorded import RecordedLayer
from chimera.stack.rules.steps import State, Weights, again, sequence


def layer(
    mode: str, x_NTBI: Tensor, state: State, w: Weights, reverse: bool
) -> tuple[Tensor, State]:
    """The hidden states of all steps ``[N, T, B, H]``, and the last state.

    Args:
        mode: of the layer.
        x_NTBI: the inputs.
        state: before the first step.
        w: the weights.
        reverse: from the last step to the first.
    """
    plain = w.w_hr is not None or not x_NTBI.is_floating_point() or not x_NTBI.shape[1]
    if plain or torch.compiler.is_compiling():
        return sequence(mode, x_NTBI, state, w, None, reverse)
    weights = (w.w_ih, w.w_hh, w.b_ih, w.b_hh)
    # Memory written in place would be in the way of who compiles a recording.
    run: Any = _Layer if get_proxy_mode() is None else RecordedLayer
    y, *last = run.apply(mode, reverse, x_NTBI, *weights, *state)
    return y, tuple(last)


class _Layer(torch.autograd.Function):
    """y_NTBH and the last state, of mode, reverse, x_NTBI, the four weights, the state."""

    @staticmethod
    def forward(ctx: Any, mode: str, reverse: bool, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh, *state = rest
        n, t, b, _ = x.shape
        known = PASSES[mode]
        bias = b_ih if known.apart or b_ih is None else b_ih + b_hh
        given = Given(mode, _order(t, reverse), w_hh, x.new_empty(n, t, b, w_hh.shape[2]))
        saved, last = known.forward(given, _of_input(x, w_ih, bias), b_hh, tuple(state))
        ctx.mode, ctx.reverse = mode, reverse
        ctx.save_for_backward(x, *rest, given.y, *saved)
        return given.y, *last

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, *d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, b_ih, b_hh, *others = ctx.saved_tensors
        state, y, saved = others[: len(d_last)], others[len(d_last)], others[len(d_last) + 1 :]
        if torch.is_grad_enabled():
            inputs = [x, w_ih, w_hh, b_ih, b_hh, *state]
            needed = ctx.needs_input_grad[2:]
            return None, None, *again(ctx.mode, ctx.reverse, inputs, needed, (d_y, *d_last))
        steps = x.shape[1]
        known, first = PASSES[ctx.mode], state[0].unsqueeze(1)
        before = torch.cat([y[:, 1:], first] if ctx.reverse else [first, y[:, :-1]], 1)
        given = Given(ctx.mode, _order(steps, ctx.reverse), w_hh, y)
        ends = tuple(each.clone(memory_format=torch.contiguous_format) for each in d_last)
        back = Back(tuple(saved), before, tuple(state), d_y, ends)
        d_input, d_hidden, d_state = known.backward(given, back)
        need_x, *need = ctx.needs_input_grad[2:7]
        of_input, of_hidden = (part.flatten(1, 2) for part in (d_input, d_hidden))
        d_w_hh = of_hidden.transpose(1, 2) @ before.flatten(1, 2) if need[1] else None
        d_b_hh = of_hidden.sum(1) if need[3] else None
        if known.apart:
            d_w_hh, d_b_hh = (d if d is None else turn(d, y.shape[-1]) for d in (d_w_hh, d_b_hh))
        return (
            *(None, None),
            torch.bmm(of_input, w_ih).view(x.shape) if need_x else None,
            torch.bmm(of_input.transpose(1, 2), x.flatten(1, 2)) if need[0] else None,
            d_w_hh,
            of_input.sum(1) if need[2] else None,
            d_b_hh,
            *d_state,
        )


def _of_input(x: Tensor, w_NGI: Tensor, bias_NG: Tensor | None) -> Tensor:
    """The input's part of the gates ``[T, N, B, G]``."""
    n, t, b, _ = x.shape
    gates = torch.bmm(x.flatten(1, 2), w_NGI.transpose(1, 2)).view(n, t, b, -1).transpose(0, 1)
    if bias_NG is None:
        return gates.contiguous()
    return torch.add(gates, bias_NG.unsqueeze(1), out=x.new_empty(gates.shape))


def _order(steps: int, reverse: bool) -> range:
    return range(steps)[::-1] if reverse else range(steps)
