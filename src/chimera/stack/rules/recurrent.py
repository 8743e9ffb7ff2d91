"""``RNN``, ``LSTM``, ``GRU`` and their cells with a member axis: one batched product a step.

Dropout between layers is drawn on ``[T, B, features]`` of one member, as alone; for a packed
sequence on its data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from chimera.draws.mode import require_draws
from chimera.stack.rules.cast_steps import CAST_STEPS
from chimera.stack.rules.numeric import PerMember, chance, numeric
from chimera.stack.rules.numeric_dropout import staying_share, uncounted_at
from chimera.stack.rules.sequences import layer
from chimera.stack.rules.steps import STEPS, State, Weights, one_step, sequence
from chimera.stack.rules.table import rule
from chimera.stack.rules.together import together


@dataclass(frozen=True, slots=True)
class _Layers:
    """What a recurrent layer computes, besides its weights.

    ``sizes`` are a packed sequence's; ``dropout`` is None where the members have their own.
    """

    mode: str
    layers: int
    directions: int
    dropout: Any
    biased: bool
    projected: bool
    sizes: tuple[int, ...] | None

    def weights(self, flat: list[Tensor]) -> list[Weights]:
        """One a layer and direction, from the order of ``all_weights``."""
        count = 2 + 2 * self.biased + self.projected
        found = []
        for start in range(0, len(flat), count):
            w_ih, w_hh, *rest = flat[start : start + count]
            b_ih, b_hh = rest[:2] if self.biased else (None, None)
            found.append(Weights(w_ih, w_hh, b_ih, b_hh, rest[-1] if self.projected else None))
        return found


@numeric(nn.RNN, dropout=chance)
@numeric(nn.GRU, dropout=chance)
@numeric(nn.LSTM, dropout=chance)
@rule(nn.RNN, "batched steps", casts=True)
@rule(nn.GRU, "batched steps", casts=True)
@rule(nn.LSTM, "batched steps")
def recurrent(module: Any, x: Any, hx: Any = None) -> Any:
    """``forward`` of the three for all members."""
    packed = x if isinstance(x, PackedSequence) else None
    data = _checked(module, x if packed is None else packed.data, packed is not None)
    several = packed is not None or data.dim() == 3
    if not several:
        data = data.unsqueeze(1)
    elif packed is None and module.batch_first:
        data = data.transpose(0, 1)
    layers = _layers(module, packed)
    states = _states(module, layers, data, hx, several)
    if packed is not None and packed.sorted_indices is not None:
        states = [state.index_select(1, packed.sorted_indices) for state in states]
    flat = [weight for weights in module.all_weights for weight in weights]
    p = layers.dropout
    if isinstance(p, PerMember):
        layers, p = replace(layers, dropout=None), p.tensor
    output, *last = together(_run, layers, len(states), p, data, *states, *flat)
    if packed is not None and packed.unsorted_indices is not None:
        last = [state.index_select(1, packed.unsorted_indices) for state in last]
    if not several:
        output, last = output.squeeze(1), [state.squeeze(1) for state in last]
    elif packed is None and module.batch_first:
        output = output.transpose(0, 1)
    if packed is not None:
        output = PackedSequence(
            output, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
    return output, tuple(last) if module.mode == "LSTM" else last[0]


def _casts(data: Tensor) -> bool:
    """Whether autocast is on; on a CPU, since elsewhere torch has kernels of whole layers."""
    if not torch.is_autocast_enabled(data.device.type):
        return False
    if data.device.type != "cpu":
        raise NotImplementedError("recurrent layers run one by one under autocast but on a CPU")
    return True


def _checked(module: Any, data: Tensor, packed: bool) -> Tensor:
    weight = module.all_weights[0][0]
    casts = _casts(data)
    if casts and (module.mode == "LSTM" or packed):
        raise NotImplementedError("LSTM and packed sequences run one by one under autocast")
    if casts and data.shape[-1] == module.input_size:
        return data
    if data.dtype != weight.dtype or data.shape[-1] != module.input_size:
        raise ValueError(f"input {tuple(data.shape)} does not fit {module}")
    return data


def _layers(module: Any, packed: PackedSequence | None) -> _Layers:
    return _Layers(
        module.mode,
        module.num_layers,
        2 if module.bidirectional else 1,
        module.dropout if module.training and module.num_layers > 1 else 0.0,
        module.bias,
        module.proj_size > 0,
        None if packed is None else tuple(packed.batch_sizes.tolist()),
    )


def _states(module: Any, layers: _Layers, data: Tensor, hx: Any, several: bool) -> list[Tensor]:
    """The states before the first step, each ``[layers * directions, B, features]``."""
    rows = layers.sizes[0] if layers.sizes is not None else data.shape[1]
    hidden = module.proj_size if layers.projected else module.hidden_size
    widths = [hidden, module.hidden_size] if module.mode == "LSTM" else [hidden]
    shapes = [(layers.layers * layers.directions, rows, width) for width in widths]
    if hx is None:
        return [data.new_zeros(shape) for shape in shapes]
    given = list(hx) if module.mode == "LSTM" else [hx]
    if not several:
        given = [state.unsqueeze(1) for state in given]
    if [tuple(state.shape) for state in given] != shapes:
        raise ValueError(f"hidden states of {module} must have the shapes {shapes}")
    return given


def _run(
    size: int, layers: _Layers, count: int, p: Any, x: Tensor, *rest: Tensor
) -> tuple[Tensor, ...]:
    """The output and the last states, which carry the layers after the members.

    ``p`` is the probability that dropout leaves a number out, or one a member ``[members]``.
    """
    states, weights = rest[:count], layers.weights(list(rest[count:]))
    mask = None if layers.sizes is None else _mask(layers.sizes, x.device)
    x_NTBI = x if mask is None else _padded(x, mask)
    last: list[State] = []
    for level in range(layers.layers):
        if level and (layers.dropout is None or layers.dropout):
            x_NTBI = _dropped(p, x_NTBI, mask)
        outputs = []
        for direction in range(layers.directions):
            index = level * layers.directions + direction
            state = tuple(whole[:, index] for whole in states)
            w, reverse = weights[index], direction == 1
            if _casts(x_NTBI):
                output, after = sequence(layers.mode, x_NTBI, state, w, None, reverse, CAST_STEPS)
            elif mask is None:
                output, after = layer(layers.mode, x_NTBI, state, w, reverse)
            else:
                output, after = sequence(layers.mode, x_NTBI, state, w, mask, reverse)
            outputs.append(output)
            last.append(after)
        x_NTBI = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    output = x_NTBI if mask is None else x_NTBI[:, mask]
    return output, *(torch.stack(parts, 1) for parts in zip(*last, strict=True))


def _dropped(p: Any, x_NTBI: Tensor, mask: Tensor | None) -> Tensor:
    require_draws("dropout between the layers of a recurrent module")
    if mask is None:
        return _dropped_out(p, x_NTBI)
    return _padded(_dropped_out(p, x_NTBI[:, mask]), mask)


def _dropped_out(p: Any, x: Tensor) -> Tensor:
    if not isinstance(p, Tensor):
        return F.dropout(x, p)
    p_N11 = p.view(-1, *[1] * (x.dim() - 1))
    kept = torch.bernoulli((1 - p_N11).expand(x.shape))
    uncounted_at(p)
    dropped: Tensor = x * (kept / staying_share(p_N11)).to(x.dtype)
    return dropped


def _mask(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Which sequences reach which step ``[T, B]``; the data of a packed sequence in its order."""
    rows = torch.arange(sizes[0], device=device)
    return rows < torch.tensor(sizes, device=device).unsqueeze(1)


def _padded(data: Tensor, mask: Tensor) -> Tensor:
    """``[N, T, B, features]`` from the data ``[N, items, features]`` of a packed sequence."""
    padded = data.new_zeros(data.shape[0], mask.numel(), data.shape[-1])
    where = mask.flatten().nonzero().squeeze(1)
    return padded.index_copy(1, where, data).view(data.shape[0], *mask.shape, data.shape[-1])


@rule(nn.RNNCell, "batched step", casts=True)
@rule(nn.GRUCell, "batched step", casts=True)
@rule(nn.LSTMCell, "batched step", casts=True)
def cell(module: Any, x: Tensor, hx: Any = None) -> Any:
    """``forward`` of the three cells for all members."""
    several = x.dim() == 2
    x = x if several else x.unsqueeze(0)
    shape = (x.shape[0], module.hidden_size)
    is_lstm = isinstance(module, nn.LSTMCell)
    if hx is None:
        states = [x.new_zeros(shape) for _ in range(1 + is_lstm)]
    else:
        states = list(hx) if is_lstm else [hx]
        states = states if several else [state.unsqueeze(0) for state in states]
    if any(tuple(state.shape) != shape for state in states):
        raise ValueError(f"hidden states of {module} must have the shape {shape}")
    weights = [module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh]
    after = together(_step, _mode(module), len(states), x, *states, *weights)
    after = after if several else tuple(state.squeeze(0) for state in after)
    return after if is_lstm else after[0]


def _mode(module: Any) -> str:
    if isinstance(module, nn.RNNCell):
        return f"RNN_{module.nonlinearity.upper()}"
    return "LSTM" if isinstance(module, nn.LSTMCell) else "GRU"


def _step(size: int, mode: str, count: int, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """The next states."""
    steps = CAST_STEPS if _casts(x) else STEPS
    return one_step(mode, x, rest[:count], Weights(*rest[count:]), steps)
