"""Contract 2 in float32: a member's error is at most four times the loop's own.

Both are held against the loop of the same modules in float64, with the same draws.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        h = x.view(2, 4, 8)
        return self.norm(h + self.attend(h, h, h, need_weights=False)[0]).flatten(1)


class Splits(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        h = self.layer(x)
        return h.tanh() if (h.sum() > 0.3) else h.sigmoid()


class Alone(Splits):
    def forward(self, x):
        return self.layer(x)[torch.randperm(8)].softmax(-1)


NETS = {
    "mlp": lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 4)),
    "norms": lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8), nn.SiLU()),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 3, padding=1), nn.Softplus(), nn.Flatten()
    ),
    "attention": Attention,
    "splits": Splits,
    "one by one": Alone,
    "repeat": lambda: ch.Repeat(lambda: ch.Residual(nn.Linear(8, 8)), 3),
    "while": lambda: ch.Sequential(
        nn.Linear(8, 8), ch.While(lambda x: x.abs().sum() > 20.5, lambda x: x * 0.7, 8)
    ),
}


def run(modules, x, stack=None):
    """Outputs ``[members, ...]``, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    if stack is not None:
        out = stack(x)
    else:
        rows = []
        for index, module in enumerate(modules):
            with ch.randomness(seed=3, member=index):
                rows.append(module(x))
        out = torch.stack(rows)
    weights = torch.arange(out[0].numel(), dtype=out.dtype).mul(0.7).cos().view(out[0].shape)
    (out * weights).sum().backward()
    found = {"output": out.detach(), "input": x.grad}
    if stack is not None:
        for entry in stack.layout():
            found[entry.name.removeprefix("groups.0.")] = entry.parameter.grad
    else:
        for name, _ in modules[0].named_parameters():
            found[name] = torch.stack([dict(m.named_parameters())[name].grad for m in modules])
    return found


@pytest.mark.parametrize("n", [3, 32])
@pytest.mark.parametrize("name", NETS)
def test_four_times_the_loops_own_error(members, name, n):
    modules = members(NETS[name], n, dtype=torch.float32)
    exact = [copy.deepcopy(module).double() for module in modules]
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    stacked = run(modules, x, ch.Stack(modules, seed=3))
    loop, truth = run(modules, x), run(exact, x.double())
    assert stacked.keys() == loop.keys() == truth.keys()
    for key, value in truth.items():
        own = (loop[key] - value).abs().max().item()
        error = (stacked[key] - value).abs().max().item()
        assert error <= max(4 * own, 1e-6 * value.abs().max().item()), key


def test_the_measure_can_fail(members, monkeypatch):
    from chimera.stack.rules import table

    right = table.RULES[nn.Linear]
    wrong = table.Rule("wrong", lambda module, x: right.forward(module, x) * (1 + 5e-6))
    monkeypatch.setitem(table.RULES, nn.Linear, wrong)
    with pytest.raises(AssertionError):
        test_four_times_the_loops_own_error(members, "mlp", 3)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_are_equal_to_the_bit_in_every_dtype(members, p):
    class Masks(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return F.dropout(x * self.scale, p)

    masks = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        modules = members(Masks, 4, dtype=dtype)
        x = torch.ones(64, dtype=dtype)
        stacked = ch.Stack(modules, seed=3)(x)
        for index, module in enumerate(modules):
            with ch.randomness(seed=3, member=index):
                assert torch.equal(stacked[index], module(x))
        masks.append(stacked != 0)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
