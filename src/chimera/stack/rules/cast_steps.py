"""Steps of ``RNN``, ``GRU`` and the cells under autocast on a CPU, for all members at once.

``CAST_STEPS`` takes the place of ``STEPS``. torch computes the two products of a step in the lower
dtype and each operation after them by itself, rounded to what its tensors have: a state in
float32 stays so. Here is the same order of operations. An ``LSTM`` runs as one kernel of oneDNN,
which rounds inside as it likes, and a packed sequence is cut by torch where rows end: they have no
such form.

Shapes as in ``steps``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chimera.stack.rules.steps import STEPS, State, Step, Weights


def _gru(x: Tensor, h: Tensor, state: State, w: Weights) -> State:
    (x_reset, x_update, x_new), (h_reset, h_update, h_new) = x.chunk(3, -1), h.chunk(3, -1)
    reset, update = torch.sigmoid(h_reset + x_reset), torch.sigmoid(h_update + x_update)
    new = torch.tanh(x_new + h_new * reset)
    return ((state[0] - new) * update + new,)


def _lstm(x: Tensor, h: Tensor, state: State, w: Weights) -> State:
    entry, forget, new, exit_ = (h + x).chunk(4, -1)
    kept = torch.sigmoid(forget) * state[1]
    c = kept + torch.sigmoid(entry) * torch.tanh(new)
    return torch.sigmoid(exit_) * torch.tanh(c), c


CAST_STEPS: dict[str, Step] = STEPS | {"GRU": _gru, "LSTM": _lstm}
