"""Mends for losses: each call fails, and the mend says why; a call that passes has none."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import chimera as ch
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


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    ("loss", "target", "said"),
    [
        (F.cross_entropy, torch.zeros(3), "cross_entropy of float32 [3, 5] and float32 [3]"),
        (nn.CrossEntropyLoss(), torch.zeros(3), "mend: give the indices of the classes: target.lo"),
        (nn.MSELoss(), torch.zeros(3, 4), "mend: give both one shape; [3, 5] and [3, 4] came"),
    ],
)
def test_a_loss_beside_the_network_is_told(loss, target, said):
    net = nn.Linear(4, 5)
    with pytest.raises(RuntimeError) as caught, ch.pointing(net), ch.pointing(net):
        loss(net(torch.rand(3, 4)), target)
    (note,) = caught.value.__notes__
    assert note.startswith("in the loss: ")
    assert said in note


def test_a_members_loss_in_a_step_is_told():
    stack = ch.Stack(ch.instances(nn.Linear, 2, 4, 5))
    step = ch.train_step(stack, nn.CrossEntropyLoss(), ch.optim.SGD(stack, lr=0.1))
    with pytest.raises(RuntimeError) as caught:
        step(torch.rand(3, 4), torch.rand(3))
    (note,) = caught.value.__notes__
    assert note.startswith("raised by member 0 of the stack, in the loss: cross_entropy of float32")
    assert note.endswith("target.long()")
