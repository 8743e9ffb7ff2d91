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

from chimera.stack.rules.passes import PASSES, Back, Given, Parts, turn
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
        bias = None if bias is None else bias.unsqueeze(1)
        y = x.new_empty(n, t, b, w_hh.shape[2])
        given = Given(mode, _order(t, reverse), w_hh, y, tuple(state))
        of_input = torch.bmm(x.flatten(1, 2), w_ih.transpose(1, 2)).view(n, t, b, -1)
        parts = Parts(of_input, bias, b_hh if known.apart else None, any(ctx.needs_input_grad))
        saved, last = known.forward(given, parts)
        ctx.mode, ctx.reverse = mode, reverse
        ctx.save_for_backward(x, *rest, y, *saved)
        return y, *last

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, *d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, b_ih, b_hh, *others = ctx.saved_tensors
        state, y, saved = others[: len(d_last)], others[len(d_last)], others[len(d_last) + 1 :]
        if torch.is_grad_enabled():
            inputs = [x, w_ih, w_hh, b_ih, b_hh, *state]
            needed = ctx.needs_input_grad[2:]
            return None, None, *again(ctx.mode, ctx.reverse, inputs, needed, (d_y, *d_last))
        steps = x.shape[1]
        known = PASSES[ctx.mode]
        given = Given(ctx.mode, _order(steps, ctx.reverse), w_hh, y, tuple(state))
        ends = tuple(each.clone(memory_format=torch.contiguous_format) for each in d_last)
        d_input, d_hidden, d_state = known.backward(given, Back(tuple(saved), d_y, ends))
        need_x, *need = ctx.needs_input_grad[2:7]
        of_input = d_input.flatten(1, 2)
        d_b_ih = of_input.sum(1) if need[2] or (need[3] and not known.apart) else None
        d_w_hh = _of_states(given, d_hidden) if need[1] else None
        d_b_hh = d_b_ih if not known.apart else d_hidden.sum((1, 2)) if need[3] else None
        if known.apart:
            d_w_hh, d_b_hh = (d if d is None else turn(d, y.shape[-1]) for d in (d_w_hh, d_b_hh))
        return (
            *(None, None),
            torch.bmm(of_input, w_ih).view(x.shape) if need_x else None,
            torch.bmm(of_input.transpose(1, 2), x.flatten(1, 2)) if need[0] else None,
            d_w_hh,
            d_b_ih,
            d_b_hh,
            *d_state,
        )


def _of_states(given: Given, d_NTBG: Tensor) -> Tensor:
    """The gradient of the state's weights ``[N, G, H]``, from that of its part of the gates."""
    earlier, later = given.follows
    d_NGB = d_NTBG[:, given.order[0]].transpose(1, 2)
    first = torch.bmm(d_NGB, given.state[0])
    d_NGR = d_NTBG[:, later].flatten(1, 2).transpose(1, 2)
    return first.baddbmm_(d_NGR, given.y[:, earlier].flatten(1, 2))


def _order(steps: int, reverse: bool) -> range:
    return range(steps)[::-1] if reverse else range(steps)
