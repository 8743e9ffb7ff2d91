"""Mends for masks and states: each call fails, and the mend says why."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from chimera.paths.beside import mask_misfit, misfit_beside

X = torch.rand(2, 5, 8)
ATTENTION = nn.MultiheadAttention(8, 2, batch_first=True)
LSTM = nn.LSTM(8, 4, num_layers=2, batch_first=True)
STATE = torch.zeros(4, 2, 4)
CASES = [
    (ATTENTION, (X, X, X), {"attn_mask": torch.zeros(4, 4)}, "[5, 5] or [4, 5, 5]; [4, 4] came"),
    (
        ATTENTION,
        (X, X, X),
        {"key_padding_mask": torch.zeros(5, 2, dtype=torch.bool)},
        "a key_padding_mask of [2, 5]; [5, 2] came: .mT",
    ),
    (
        ATTENTION,
        (X, X, X),
        {"key_padding_mask": torch.zeros(2, 5, dtype=torch.int64)},
        "True where an entry is left out: .bool()",
    ),
    (LSTM, (X, (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))), {}, "[2, 2, 4], [layers x"),
    (LSTM, (X, torch.zeros(2, 2, 4)), {}, "a pair of states"),
    (nn.GRU(8, 4, bidirectional=True), (X, torch.zeros(2, 2, 4)), {}, "of [2, 5, 4]"),
]


@pytest.mark.parametrize(("module", "args", "kwargs", "mend"), CASES)
def test_a_call_that_fails_has_its_mend(module, args, kwargs, mend):
    with pytest.raises((RuntimeError, AssertionError)):
        module(*args, **kwargs)
    assert mend in misfit_beside(module, args, kwargs)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("module", "args", "kwargs"),
    [
        (ATTENTION, (X, X, X), {"attn_mask": torch.zeros(5, 5)}),
        (ATTENTION, (X, X, X), {"attn_mask": torch.zeros(4, 5, 5)}),
        (ATTENTION, (X[0], X[0], X[0]), {"key_padding_mask": torch.zeros(5, dtype=torch.bool)}),
        (LSTM, (X, (torch.zeros(2, 2, 4), torch.zeros(2, 2, 4))), {}),
        (LSTM, (X,), {}),
        (nn.LSTM(8, 4, proj_size=3), (X, (torch.zeros(1, 5, 3), torch.zeros(1, 5, 4))), {}),
        (nn.GRU(8, 4, bidirectional=True), (X[0], torch.zeros(2, 4)), {}),
    ],
)
def test_a_call_that_passes_has_none(module, args, kwargs):
    module(*args, **kwargs)
    assert misfit_beside(module, args, kwargs) is None


@pytest.mark.parametrize("shape", [(2, 2), (5, 4), (3, 5, 5)])
def test_masks_of_the_function(shape):
    with pytest.raises(RuntimeError):
        F.scaled_dot_product_attention(X, X, X, attn_mask=torch.zeros(shape))
    assert "a mask of [5, 5]" in mask_misfit(X, X, torch.zeros(shape))
    assert mask_misfit(X, X, torch.zeros(5, 5)) is None
    assert mask_misfit(X, X, torch.zeros(2, 1, 5)) is None
