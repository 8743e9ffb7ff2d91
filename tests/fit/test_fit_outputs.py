"""An output that does not fit the data is told before training, with the layer that made it."""

import re

import pytest
import torch
from torch import Tensor, nn

import chimera as ch
from chimera.fit import MLP, Data
from chimera.fit.outputs import check_output

CLASSES = ch.data(torch.randn(20, 6), torch.arange(20) % 3)
NUMBERS = ch.data(torch.randn(20, 6), torch.randn(20, 2))
COLUMN = ch.data(torch.randn(20, 6), torch.randn(20))
FLOATS = ch.data(torch.randn(20, 6), torch.arange(20) % 2.0)


class Functional(nn.Module):
    """A network whose output is no layer's."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * 2


@pytest.mark.parametrize(
    ("module", "data"),
    [
        (MLP(6, 3), CLASSES),
        (MLP(6, 5), CLASSES),  # a class that the data lack
        (MLP(6, 2), NUMBERS),
        (MLP(6, 1), COLUMN),
        (nn.Sequential(MLP(6, 1), nn.Flatten(0)), COLUMN),
    ],
)
def test_outputs_that_fit(module: nn.Module, data: Data) -> None:
    check_output(module, data, "member 0")


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (
            nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)),
            CLASSES,
            "the output of member 0 does not fit the data: for x [2, 6] its layer '1' (Linear) "
            "gave [2, 2], expected [2, 3], a score for each of 3 classes",
        ),
        (Functional(2), CLASSES, "its forward gave [2, 2], expected [2, 3]"),
        (nn.Sequential(MLP(6, 3), nn.Flatten(0)), CLASSES, "its layer '1' (Flatten) gave [6]"),
        (nn.LSTM(6, 3), CLASSES, "gave tuple, expected [2, 3]"),
        (MLP(6, 3), NUMBERS, "its layer 'out' (Linear) gave [2, 3], expected [2, 2], the shape of"),
        (MLP(6, 2), COLUMN, "gave [2, 2], expected [2], the shape of y"),
        (
            MLP(6, 2),
            FLOATS,
            "the shape of y (a y of floats means regression: classes are y.long())",
        ),
    ],
)
def test_outputs_that_do_not_fit(module: nn.Module, data: Data, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_output(module, data, "member 0")


def test_an_error_in_forward_says_what_came_in() -> None:
    with pytest.raises(RuntimeError) as caught:
        check_output(nn.Linear(5, 3), CLASSES, "member 4")
    (note,) = caught.value.__notes__
    assert note.startswith("in the module at (root) of member 4 of the stack: Linear(")
    assert "came: float32 [2, 6] from (the input)" in note
