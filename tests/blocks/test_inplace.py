"""What is promised of torch's layers is true, and its private names mean what we read."""

import pytest
import torch
from torch import nn

from chimera.blocks.inplace import _FRESH, Touch, copied, touch_of

SHAPES = {
    "1d": (2, 4, 8),
    "2d": (2, 4, 8, 8),
    "3d": (2, 4, 4, 4, 4),
}


def made(kind):
    name = kind.__name__
    shape = next((s for end, s in SHAPES.items() if name.endswith(end)), (2, 4))
    if "Conv" in name:
        return kind(4, 4, 1), shape
    if "BatchNorm" in name or kind is nn.LayerNorm:
        return kind(4), shape
    if kind is nn.GroupNorm:
        return kind(2, 4), shape
    if "Pool" in name:
        return kind(1), shape
    if kind is nn.Linear:
        return kind(4, 4), shape
    if "Softmax" in name:
        return kind(-1), shape
    return kind(), shape


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "kind", sorted(_FRESH - {nn.Bilinear, nn.Embedding}, key=lambda k: k.__name__)
)
def test_fresh_layers_give_new_tensors_and_leave_the_input_alone(kind, train):
    layer, shape = made(kind)
    layer.train(train)
    x = torch.rand(shape)
    kept = x.clone()
    assert touch_of(layer) is Touch.FRESH
    out = layer(x)
    out = out[0] if isinstance(out, tuple) else out
    with torch.no_grad():
        out.fill_(7)
    assert torch.equal(x, kept)


def test_hooks_are_where_they_are_read():
    layer = nn.ReLU()
    assert touch_of(layer) is Touch.FRESH
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        handle = register(lambda *args: None)
        assert touch_of(layer) is Touch.MAY
        handle.remove()
    assert touch_of(layer) is Touch.FRESH


def test_subclasses_and_unknown_modules_may_do_anything():
    class Own(nn.Linear):
        pass

    assert touch_of(Own(1, 1)) is Touch.MAY
    assert touch_of(nn.TransformerEncoderLayer(4, 2)) is Touch.MAY
    assert touch_of(nn.utils.parametrizations.weight_norm(nn.Linear(1, 1))) is Touch.MAY
    assert touch_of(nn.Identity()) is Touch.PASSES


def test_a_tensor_that_comes_twice_is_copied_once():
    x = torch.rand(2, requires_grad=True)
    packed = nn.utils.rnn.pack_sequence([torch.rand(2, 1)])
    first, second, same, number = copied((x, {"x": x}, packed, 3))
    assert first is second["x"]
    assert first is not x
    assert type(same) is type(packed)
    assert same.data is not packed.data
    assert number == 3
    first.sum().backward()
    assert torch.equal(x.grad, torch.ones(2))
