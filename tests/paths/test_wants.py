"""What layers want: each is called with what fits, and with what does not."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from chimera.paths.notes import point
from chimera.paths.wants import _RULES, want

LONG = torch.zeros(2, 3, dtype=torch.int64)
CASES = [
    (nn.Linear(4, 2), torch.rand(3, 4), torch.rand(3, 5), "float32 [..., 4]", "in_features=5"),
    (nn.Linear(4, 2).double(), torch.rand(3, 4).double(), torch.rand(3, 4), "float64", "float64"),
    (nn.RNNCell(4, 2), torch.rand(3, 4), torch.rand(3, 5), "[..., 4]", "input_size=5"),
    (nn.LSTM(4, 2), torch.rand(6, 3, 4), torch.rand(6, 3, 5), "[L, N, 4]", "input_size=5"),
    (nn.GRU(4, 2), torch.rand(6, 4), torch.rand(6, 3, 1, 4), "[L, N, 4]", "2 or 3 axes; 4 came"),
    (nn.RNN(4, 2, batch_first=True), torch.rand(6, 3, 4), torch.rand(2, 2, 1), "[N, L, 4]", "=1"),
    (nn.Embedding(7, 2), LONG, torch.rand(2, 3), "int64 [...] from 0 to 6", ".long()"),
    (nn.EmbeddingBag(7, 2), LONG, torch.rand(2, 3), "int64", ".long()"),
    (nn.Embedding(7, 2), LONG, LONG + 7, "from 0 to 6", "num_embeddings=8 or more"),
    (nn.Embedding(7, 2), LONG, LONG - 1, "from 0 to 6", "no indices below 0; -1 came"),
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
    (nn.Conv2d(4, 2, 1), torch.rand(4, 5, 5), torch.rand(3, 5, 5), "[N, 4", "4 axes, the batch"),
    (nn.Conv2d(4, 2, 3), torch.rand(1, 4, 3, 3), torch.rand(1, 4, 2, 3), "[N, 4", "3 x 3 or more"),
    (
        nn.Conv1d(4, 2, 3, 1, 1, 2),
        torch.rand(1, 4, 3),
        torch.rand(1, 4, 2),
        "[N, 4",
        "give it 3 or",
    ),
    (nn.Linear(4, 2), torch.rand(3, 4), (torch.rand(3, 4), 1), "[..., 4]", "a tuple of 2 came"),
    (nn.Linear(4, 2), torch.rand(3, 4), None, "[..., 4]", "None came"),
    (nn.Linear(8, 2), torch.rand(3, 8), torch.rand(3, 8, 1, 1), "[..., 8]", ".flatten(1) gives [3"),
    (nn.Linear(4, 2), torch.rand(3, 4), torch.rand(3, 4, 5), "[..., 4]", ".movedim(1, -1); else"),
    (nn.Linear(4, 2), torch.rand(3, 4), torch.rand(4, 5), "[..., 4]", "give this layer in_fea"),
    (nn.Conv1d(4, 2, 1), torch.rand(3, 4, 5), torch.rand(3, 5, 4), "[N, 4, L]", ".movedim(2, 1)"),
    (
        nn.Conv2d(3, 2, 1),
        torch.rand(2, 3, 5, 5),
        torch.rand(2, 5, 5, 3),
        "[N, 3",
        "its axis 3 has the 3: .movedim(3, 1); else give this layer in_channels=5",
    ),
    (nn.Conv2d(1, 2, 1), torch.rand(2, 1, 5, 5), torch.rand(2, 5, 5), "[N, 1", ".unsqueeze(1)"),
    (nn.BatchNorm1d(4), torch.rand(3, 4, 2), torch.rand(3, 2, 4), "[N, 4", ".movedim(2, 1)"),
    (nn.LayerNorm(4), torch.rand(3, 2, 4), torch.rand(3, 4, 2), "[..., 4]", ".movedim(1, -1)"),
    (nn.LSTM(4, 2), torch.rand(6, 3, 4), torch.rand(6, 5), "[L, N, 4]", "one sequence, [L, 4]"),
    (
        nn.Linear(4, 2),
        torch.rand(3, 4),
        (torch.rand(3, 4), (torch.rand(1, 4), torch.rand(1, 4))),
        "[..., 4]",
        "output, _ = layer(x)",
    ),
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


@pytest.mark.parametrize(
    ("shapes", "mend"),
    [
        (((3, 2, 5), (3, 2, 4), (3, 2, 4)), "embed_dim=5, or a query of 4"),
        (((3, 2, 4), (3, 2, 5), (3, 2, 4)), "kdim=5, or a key of 4"),
        (((3, 2, 4), (3, 2, 4), (3, 2, 6)), "vdim=6, or a value of 4"),
        (((3, 2, 4), (2, 4), (2, 4)), "the same number of axes"),
        (((3, 2, 4), (3, 5, 4), (3, 2, 4)), "key and value the same length"),
        (((3, 2, 4), (2, 2, 4), (2, 2, 4)), "same batch; axis 0 is 3 and 2; batch_first=False"),
    ],
)
def test_attention(shapes, mend):
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    given = [torch.rand(shape) for shape in shapes]
    with pytest.raises(Exception):  # noqa: B017
        layer(*given)
    assert mend in want(layer, tuple(given)).mend


def test_attention_of_another_dtype():
    layer, x = nn.MultiheadAttention(4, 2), torch.rand(3, 2, 4)
    layer(x, x, x)
    assert want(layer, (x, x, x)).mend is None
    x = x.double()
    assert "give inputs of float32" in want(layer, (x, x, x)).mend


def test_a_layer_on_another_device():
    """A tensor of a device that is not there, by torch's own stand-ins."""

    class Elsewhere(nn.Linear):
        def forward(self, x):
            raise RuntimeError("Expected all tensors to be on the same device")

    layer = Elsewhere(4, 3, bias=False)
    with FakeTensorMode():
        x = torch.rand(2, 4)
        layer.weight = nn.Parameter(torch.empty(3, 4, device="cuda:1"))
        wanted = want(layer, (x,))
        assert wanted.text == "float32 [..., 4] on cuda:1"
        assert wanted.mend == "move the input, .to('cuda:1'), or the network, .to('cpu')"
        assert want(layer, (x.to("meta"),)).mend is None
        with pytest.raises(RuntimeError) as caught:
            layer(x)
        point(caught.value, layer)
    assert "came: float32 [2, 4] on cpu\n" in caught.value.__notes__[0]


def test_indices_that_cannot_be_read():
    layer = nn.Embedding(7, 2)
    seen = []

    def look(indices):
        seen.append(want(layer, (indices,)).mend)
        return indices

    torch.vmap(look)(LONG + 7)
    assert seen == [None]


def test_bilinear():
    layer = nn.Bilinear(3, 4, 2)
    assert want(layer, (torch.rand(2, 3), torch.rand(2, 4))).mend is None
    assert "in1_features=5" in want(layer, (torch.rand(2, 5), torch.rand(2, 4))).mend


def test_every_rule_is_tried_and_a_layer_without_a_rule_has_none():
    tried = {kind for layer, *_ in CASES for kind in type(layer).__mro__}
    tried |= {nn.ModuleList, nn.ModuleDict}  # tests/build/test_pointing.py
    alike = {nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm3d}
    alike |= {nn.ConvTranspose1d, nn.ConvTranspose3d}
    assert set(_RULES) - tried == alike
    assert want(nn.ReLU(), (torch.rand(3),)) is None
    assert want(nn.LazyLinear(3), (torch.rand(3),)) is None
