"""What looks at a network leaves the modes of torch as they were."""

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.build.modes import modes_restored


def changed():
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.autograd.set_detect_anomaly(True, False)


def state():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
    )


class InConstructor(nn.Module):
    def __init__(self):
        super().__init__()
        torch.set_default_dtype(torch.float64)
        changed()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x.to(self.layer.weight.dtype))


class InForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        changed()
        torch.set_default_device("meta")
        return self.layer(x)


LOOKS = {
    "check": lambda net: ch.check(net, ch.spec("batch", 4)),
    "summary": lambda net: ch.summary(net, ch.spec("batch", 4)),
    "measured": lambda net: ch.summary(net, ch.spec(2, 4), measure=True),
    "shapes": lambda net: ch.shapes(net, ch.spec("batch", 4)),
    "example": lambda net: ch.shapes(net, example=torch.ones(2, 4)),
    "contract": lambda net: ch.contract(net, ch.spec("batch", 4)),
}


@pytest.fixture(autouse=True)
def restored():
    with modes_restored():
        yield


@pytest.mark.parametrize("kind", [InConstructor, InForward])
@pytest.mark.parametrize("look", LOOKS)
def test_modes_stay(kind, look):
    before = state()
    LOOKS[look](kind)
    assert state() == before


def test_a_build_puts_back_what_forward_changes():
    before = state()
    ch.build(InForward(), ch.spec("batch", 4))
    assert state() == before


def test_all_of_them_are_put_back():
    before = state()
    with modes_restored():
        InConstructor()
        torch.set_default_device("meta")
        assert all(one != other for one, other in zip(before, state(), strict=True))
    assert state() == before


def test_no_device_is_left_set_where_none_was():
    ch.build(InForward(), ch.spec("batch", 4))
    assert not torch.overrides._get_current_function_mode_stack()
