"""What layers want: each is called with what fits, and with what does not."""

import pytest
import torch
from torch import nn

from chimera.paths.wants import _RULES, want

LONG = torch.zeros(2, 3, dtype=torch.int64)
CASES = [
    (nn.Linear(4, 2), torch.rand(3, 4), torch.rand(3, 5), "float32 [..., 4]", "in_features=5"),
    (nn.Linear(4, 2).double(), torch.rand(3, 4).double(), torch.rand(3, 4), "float64", "float64"),
    (nn.RNNCell(4, 2), torch.rand(3, 4), torch.rand(3, 5), "[..., 4]", "input_size=5"),
    (nn.LSTM(4, 2), torch.rand(6, 3, 4), torch.rand(6, 3, 5), "[L, N, 4]", "input_size=5"),
    (nn.GRU(4, 2), torch.rand(6, 4), torch.rand(6, 3, 1, 4), "[L, N, 4]", "2 or 3 axes; 4 came"),
    (nn.RNN(4, 2, batch_first=True), torch.rand(6, 3, 4), torch.rand(2, 2, 1), "[N, L, 4]", "=1"),
    (nn.Embedding(7, 2), LONG, torch.rand(2, 3), "int64 [...] below 7", ".long()"),
    (nn.EmbeddingBag(7, 2), LONG, torch.rand(2, 3), "int64", ".long()"),
    (nn.LayerNorm((2, 4)), torch.rand(3, 2, 4), torch.rand(3, 2, 5), "[..., 2, 4]", "[2, 5]"),
    (nn.RMSNorm(4), torch.rand(3, 4), torch.rand(3, 5), "[..., 4]", "normalized_shape=[5]"),
    (nn.GroupNorm(2, 4), torch.rand(3, 4), torch.rand(3, 6), "[N, 4, ...]", "num_channels=6"),
    (nn.BatchNorm1d(4), torch.rand(3, 4), torch.rand(3, 5), "[N, 4, ...]", "num_features=5"),
    (nn.BatchNorm1d(4), torch.rand(3, 4, 2), torch.rand(3, 4, 1, 1), "[N, 4", "2 or 3 axes; 4"),
    (nn.BatchNorm1d(4), torch.rand(3, 4), torch.rand(1, 4), "[N, 4, ...]", "larger batch"),
    (nn.BatchNorm2d(4), torch.rand(3, 4, 2, 2), torch.rand(3, 4), "[N, 4", "4 axes; 2 came"),
    (nn.InstanceNorm2d(4), torch.rand(3, 4, 2, 2), torch.rand(3, 4), "[N, 4", "axes; 2 came"),
    (nn.Conv1d(4, 2, 1), torch.rand(3, 4, 5), torch.rand(3, 5, 5), "[N, 4, L]", "in_channels=5"),
    (nn.Conv2d(4, 2, 1), torch.rand(3, 4, 5, 5), torch.rand(3, 4), "[N, 4, H, W]", "4 axes; 2"),
    (nn.Conv2d(4, 2, 1), torch.rand(4, 5, 5), torch.rand(1, 3, 5, 5), "[N, 4, H, W]", "=3"),
    (nn.Conv3d(4, 2, 1), torch.rand(1, 4, 1, 1, 1), torch.rand(1, 3, 1, 1, 1), "D, H, W", "=3"),
    (nn.ConvTranspose2d(4, 2, 1), torch.rand(1, 4, 5, 5), torch.rand(1, 3, 5, 5), "[N, 4", "=3"),
]


@pytest.mark.parametrize(("layer", "fits", "misfits", "text", "mend"), CASES)
def test_a_layer_wants_what_it_takes(layer, fits, misfits, text, mend):
    layer(fits)
    wanted = want(layer, (fits,))
    assert text in wanted.text
    assert wanted.mend is None
    with pytest.raises(Exception):  # noqa: B017
        layer(misfits)
    assert mend in want(layer, (misfits,)).mend


def test_attention():
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.rand(3, 2, 5)
    assert want(layer, (x, x, x)).mend.startswith("give this layer embed_dim=5")


def test_bilinear():
    layer = nn.Bilinear(3, 4, 2)
    assert want(layer, (torch.rand(2, 3), torch.rand(2, 4))).mend is None
    assert "in1_features=5" in want(layer, (torch.rand(2, 5), torch.rand(2, 4))).mend


def test_every_rule_is_tried_and_a_layer_without_a_rule_has_none():
    tried = {kind for layer, *_ in CASES for kind in type(layer).__mro__}
    tried |= {nn.MultiheadAttention, nn.Bilinear}
    alike = {nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm3d}
    alike |= {nn.ConvTranspose1d, nn.ConvTranspose3d}
    assert set(_RULES) - tried == alike
    assert want(nn.ReLU(), (torch.rand(3),)) is None
    assert want(nn.LazyLinear(3), (torch.rand(3),)) is None
