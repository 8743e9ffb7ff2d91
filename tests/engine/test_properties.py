"""Whatever the modules: recorded steps, and steps in chunks, are those of eager."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import chimera as ch
from chimera.engine.graph import StepGraph
from chimera.engine.room import STATES

WIDTH = 4
LAYERS = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "unbiased": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "softmax": lambda: nn.Softmax(-1),
    "dropout": lambda: nn.Dropout(0.4),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, WIDTH)), nn.Conv1d(1, 2, 3, padding=1), nn.Flatten(),
        nn.Linear(2 * WIDTH, WIDTH),
    ),
    "gru": lambda: nn.Sequential(nn.Unflatten(1, (2, WIDTH // 2)), Last(), nn.Linear(3, WIDTH)),
    "residual": lambda: ch.Residual(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid())),
    "parallel": lambda: ch.Parallel(nn.Linear(WIDTH, 1), nn.Linear(WIDTH, WIDTH - 1)),
}  # fmt: skip
OPTIMIZERS = {
    "AdamW": lambda s, rates: ch.optim.AdamW(s, lr=rates),
    "Adam": lambda s, rates: ch.optim.Adam(s, lr=rates, weight_decay=0.1, betas=(0.8, 0.9)),
    "SGD": lambda s, rates: ch.optim.SGD(s, lr=rates, momentum=0.5),
}


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(WIDTH // 2, 3, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0][:, -1]


def trained(names, members, optimizer, shared, engine, **how):
    def make():
        layers = [LAYERS[name]() for name in names]
        return nn.Sequential(nn.Linear(3, WIDTH), *layers, nn.Linear(WIDTH, 5)).double()

    stack = ch.Stack(ch.instances(make, members, seed=1), seed=2)
    rates = torch.logspace(-3, -2, members, dtype=torch.float64)
    step = ch.train_step(
        stack, F.cross_entropy, OPTIMIZERS[optimizer](stack, rates), engine=engine, **how
    )
    draw = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(4):
        x = torch.randn(members, 6, 3, generator=draw, dtype=torch.float64)
        y = torch.randint(5, (members, 6), generator=draw)
        losses.append(step(x[0] if shared else ch.each(x), ch.each(y)))
    return stack, torch.stack(losses), step


@given(
    names=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4),
    members=st.integers(2, 5),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    shared=st.booleans(),
    clip=st.sampled_from([None, 0.1]),
    way=st.sampled_from(["whole", "parted", "chunks"]),
)
@settings(max_examples=15)
def test_every_way_of_a_step_is_that_of_eager(names, members, optimizer, shared, clip, way):
    how = {"clip": clip}
    eager, losses, _ = trained(names, members, optimizer, shared, "eager", **how)
    if way == "parted":
        how["before_update"] = lambda losses: None
    if way == "chunks":
        numbers = sum(p.nbytes for p in eager.state_dict().values() if torch.is_tensor(p))
        how["memory"] = (2 + STATES) * numbers + 8 * members * 6 * 5 + 2000
    runs = StepGraph.run
    with (
        mock.patch.object(torch, "compile", lambda graph, **_: graph),
        mock.patch.object(StepGraph, "run", autospec=True, side_effect=runs) as ran,
    ):
        stack, others, step = trained(names, members, optimizer, shared, "compiled", **how)
    assert way == "chunks" or ran.call_count == 2, str(ch.explain(step))
    torch.testing.assert_close(others, losses, rtol=1e-9, atol=1e-12)
    # Adam moves what has no gradient but rounding, as a bias before batch norm, either way.
    loose = 1e-9 if optimizer == "SGD" else 0.1
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(stack.state_dict()[name], tensor, rtol=1e-6, atol=loose)


def test_a_planted_difference_is_seen():
    one = trained(["linear"], 3, "SGD", False, "eager")
    other = trained(["linear"], 3, "SGD", False, "eager", clip=0.01)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(one[1], other[1], rtol=1e-9, atol=1e-12)
