"""Convolutions and poolings of all members: the same as alone, and no copy between them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.stack.rules import convolution

CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1, bias=False),
    "strides": lambda: nn.Conv2d(4, 6, (3, 1), stride=2, dilation=2, padding=(2, 0)),
    "reflected": lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"),
    "of one place": lambda: nn.Conv2d(4, 6, 1, stride=(1, 2)),
    "of one place, without bias": lambda: nn.Conv2d(4, 6, 1, bias=False),
    "of one place, padded": lambda: nn.Conv2d(4, 6, 1, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1),
    "transposed groups": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
}
POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "max": lambda: nn.MaxPool2d(2),
    "max, ceil": lambda: nn.MaxPool2d(3, 1, 1, ceil_mode=True),
    "average": lambda: nn.AvgPool2d(2, padding=1),
    "adaptive": lambda: nn.AdaptiveAvgPool2d(2),
    "adaptive max": lambda: nn.AdaptiveMaxPool2d((2, 1)),
}


@pytest.mark.parametrize("way", ["grouped", "product", "pointwise", "separate"])
@pytest.mark.parametrize("images", [(2,), ()])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_chain_is_itself(
    name: str, own: bool, images: tuple[int, ...], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(*_: int, strided: bool, unfolds: bool, pointwise: bool) -> str:
        possible = {"product": unfolds, "pointwise": pointwise}
        return way if possible.get(way, True) else "grouped"

    monkeypatch.setattr("chimera.stack.rules.convolution.way_of", chosen)
    x = torch.randn(*([3] if own else []), *images, 4, 9, 9, dtype=torch.float64)
    for pooling in POOLINGS.values():
        make = CONVOLUTIONS[name]
        nets = ch.instances(lambda make=make, pool=pooling: nn.Sequential(make(), pool()), 3)
        stack = ch.Stack(nets).double()
        ch.verify(stack, ch.each(x) if own else x, raises=True)
        assert not ch.explain(stack).alone


def test_indices_are_those_of_the_image() -> None:
    stack = ch.Stack([nn.MaxPool2d(2, return_indices=True) for _ in range(3)])
    x = torch.randn(3, 2, 4, 8, 8)
    found, expected = stack(ch.each(x)), nn.MaxPool2d(2, return_indices=True)(x[1])
    assert all(torch.equal(ours[1], theirs) for ours, theirs in zip(found, expected, strict=True))


def test_members_stay_beside_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chimera.stack.rules.convolution.way_of", lambda *_, **__: "grouped")
    stack = ch.Stack(
        ch.instances(
            lambda: nn.Sequential(
                nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 1)
            ),
            3,
        )
    )
    output = stack(torch.randn(5, 2, 8, 8))
    assert output.shape == (3, 5, 6, 3, 3)
    assert output.transpose(0, 1).is_contiguous()


def test_no_images_at_all() -> None:
    stack = ch.Stack(ch.instances(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)), 3))
    assert stack(torch.randn(0, 2, 8, 8)).shape == (3, 0, 4, 3, 3)


def test_channels_that_do_not_fit_are_told_as_alone() -> None:
    stack = ch.Stack([nn.Conv2d(2, 4, 3) for _ in range(3)])
    with pytest.raises(RuntimeError, match="channels"):
        stack(torch.randn(5, 3, 8, 8))


def test_an_image_of_one_place_windows_is_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    true = convolution._pointwise

    def spied(*given: Any) -> torch.Tensor:
        seen.append(given[0].shape)
        return true(*given)

    monkeypatch.setattr(convolution, "_pointwise", spied)
    for make, x in (
        (lambda: nn.Conv2d(4, 6, 1, stride=2), torch.randn(2, 4, 16, 16)),
        (lambda: nn.Conv1d(4, 6, 1), torch.randn(2, 4, 256)),
        (lambda: nn.Conv3d(2, 3, 1), torch.randn(2, 2, 4, 4, 4)),
    ):
        ch.verify(ch.Stack(ch.instances(make, 3)), ch.each(x.expand(3, *x.shape)), raises=True)
    assert len(seen) >= 3
