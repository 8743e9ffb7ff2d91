"""Mends for losses: each call fails, and the mend says why; a call that passes has none."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from chimera.paths.losses import loss_misfit, loss_wants, module_misfit

LONG = torch.int64
CASES = [
    (F.cross_entropy, torch.rand(3, 5), torch.zeros(4, dtype=LONG), "a target of [3], one for"),
    (F.cross_entropy, torch.rand(3, 5), torch.zeros(3, 5, dtype=LONG), "target.argmax(1), or"),
    (F.cross_entropy, torch.rand(3, 5), torch.tensor([0, 5, 1]), "6 classes or more"),
    (F.cross_entropy, torch.rand(3, 5), torch.tensor([0, -1, 1]), "no targets below 0"),
    (F.cross_entropy, torch.rand(3, 5), torch.rand(3), "target.long()"),
    (F.cross_entropy, torch.rand(3, 5), torch.zeros(3, 1, dtype=LONG), "target.squeeze(-1)"),
    (F.cross_entropy, torch.rand(3, 7, 5), torch.zeros(3, 7, dtype=LONG), "output.movedim(-1, 1)"),
    (F.nll_loss, torch.rand(3, 5), torch.rand(3, 5), "target.argmax(1)"),
    (F.mse_loss, torch.rand(3, 5), torch.rand(3, 4), "one shape; [3, 5] and [3, 4] came"),
    (F.binary_cross_entropy_with_logits, torch.rand(3, 1), torch.rand(3), "target.view(3, 1)"),
    (F.binary_cross_entropy, torch.full((3,), 2.0), torch.ones(3), "end in a sigmoid"),
]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("function", "output", "target", "mend"), CASES)
def test_a_loss_that_fails_has_its_mend(function, output, target, mend):
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        function(output, target)
    assert mend in loss_misfit(function.__name__, output, target)


@pytest.mark.parametrize(
    ("function", "output", "target"),
    [
        (F.cross_entropy, torch.rand(3, 5), torch.tensor([0, 4, 1])),
        (F.cross_entropy, torch.rand(3, 5), torch.rand(3, 5)),
        (F.cross_entropy, torch.rand(5), torch.tensor(4)),
        (F.cross_entropy, torch.rand(3, 5, 7), torch.zeros(3, 7, dtype=LONG)),
        (F.nll_loss, torch.rand(3, 5), torch.tensor([0, 4, 1])),
        (F.mse_loss, torch.rand(3, 5), torch.rand(3, 5)),
        (F.binary_cross_entropy, torch.rand(3), torch.ones(3)),
    ],
)
def test_a_loss_that_passes_has_none(function, output, target):
    function(output, target)
    assert loss_misfit(function.__name__, output, target) is None


def test_modules_are_told_by_their_functions():
    assert "0 to C - 1" in loss_wants(nn.CrossEntropyLoss())
    assert "of one shape" in loss_wants(nn.MSELoss())
    assert loss_wants(nn.Linear(2, 2)) is None
    assert "one shape" in module_misfit(nn.L1Loss(), torch.rand(2), torch.rand(3))
    assert module_misfit(nn.Linear(2, 2), torch.rand(2), torch.rand(3)) is None
