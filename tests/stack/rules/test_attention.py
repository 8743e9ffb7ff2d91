"""Scaled dot-product attention without dropout, which torch's own batching runs one by one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch

N = 4
MASKS = {
    "none": None,
    "causal": None,
    "bool": torch.ones(5, 7, dtype=torch.bool).tril(2),
    "float": torch.linspace(-2, 2, 35).view(5, 7),
    "of a batch": torch.linspace(-2, 2, 70).view(2, 1, 5, 7),
}


class Attends(nn.Module):
    def __init__(self, how, batch):
        super().__init__()
        self.how = how
        self.q, self.k = nn.Parameter(torch.randn(*batch, 5, 6)), nn.Parameter(torch.randn(7, 6))
        self.scale = 0.7 if how == "float" else None

    def forward(self, x):
        mask = MASKS[self.how]
        if mask is not None and mask.is_floating_point():
            mask = mask.to(x.dtype)
        return F.scaled_dot_product_attention(
            self.q,
            x * self.k,
            x,
            attn_mask=mask,
            is_causal=self.how == "causal",
            scale=self.scale,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("how", MASKS)
def test_attention_of_all_members(how, batch, dtype):
    if how == "of a batch" and len(batch) < 2:
        pytest.skip("the mask is of a batch of two")
    torch.manual_seed(0)
    stack = ch.Stack([Attends(how, batch).to(dtype) for _ in range(N)])
    x = torch.randn(N, *batch, 7, 6, dtype=dtype)
    for inputs in (ch.each(x), x[0]):
        ch.verify(stack, inputs, raises=True)
        stack(inputs)
    assert not ch.explain(stack).alone


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "factory",
    [
        lambda p: nn.TransformerEncoderLayer(8, 2, 16, dropout=p, batch_first=True),
        lambda p: nn.TransformerDecoderLayer(8, 2, 16, dropout=p),
        lambda p: nn.Transformer(8, 2, 1, 1, 16, dropout=p, batch_first=True),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_whole_transformers_are_stacked(factory, training, dropout):
    torch.manual_seed(0)
    stack = ch.Stack([factory(dropout) for _ in range(N)]).train(training)
    x = torch.randn(N, 2, 5, 8)
    inputs = [ch.each(x)] * (1 if isinstance(stack[0], nn.TransformerEncoderLayer) else 2)
    ch.verify(stack, ch.inputs(*inputs), raises=True)
    stack(*inputs)
    assert not ch.explain(stack).alone
