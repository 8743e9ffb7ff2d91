"""``CrossMapLRN2d`` with a member axis.

torch's class sums squares over a window of channels that it slides, and differentiates by its own
formula; both sums are products with a fixed matrix of zeros and ones here. Autocast lowers none of
its operations, and so must not lower these products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from chimera.stack.rules.table import rule


@rule(nn.CrossMapLRN2d, "batched product", casts=True)
def cross_map_lrn(module: nn.CrossMapLRN2d, input: Tensor) -> Tensor:
    """``CrossMapLRN2d.forward`` for all members."""
    if input.dim() != 4:
        raise ValueError(f"CrossMapLRN2d: Expected input to be 4D, got {input.dim()}D instead.")
    settings = (module.size, module.alpha, module.beta, module.k)
    with _as_it_is(input):
        y: Tensor = _CrossMap.apply(input, *settings)[0]  # type: ignore[no-untyped-call]
    return y


@contextmanager
def _as_it_is(tensor: Tensor) -> Iterator[None]:
    """Without autocast where it is on."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        yield
        return
    with torch.autocast(device, enabled=False):
        yield


def _window(channels: int, size: int) -> list[list[float]]:
    """Which squares ``[channel, summed channel]`` torch's sliding sum holds.

    It adds a channel at the front and takes one away at the back, the first never.
    """
    ahead = int((size - 1) / 2 + 1)
    held = set(range(min(ahead, channels)))
    rows = []
    for channel in range(channels):
        if channel:
            if channel < channels - ahead + 1:
                held.add(channel + ahead - 1)
            if channel > ahead:
                held.discard(channel - ahead)
        rows.append([float(c in held) for c in range(channels)])
    return rows


def _window_back(channels: int, size: int) -> list[list[float]]:
    """Which ratios ``[channel, summed channel]`` the gradient of a channel sums."""
    behind = int(size - (size - 1) / 2)
    return [
        [float(channel <= c + behind <= channel + size - 1) for c in range(channels)]
        for channel in range(channels)
    ]


class _CrossMap(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x_BCHW: Tensor, size: int, alpha: float, beta: float, k: float
    ) -> tuple[Tensor, Tensor]:
        window = x_BCHW.new_tensor(_window(x_BCHW.shape[1], size))
        scale = torch.einsum("cd,bdhw->bchw", window, x_BCHW.pow(2)) * (alpha / size) + k
        return x_BCHW * scale.pow(-beta), scale

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x_BCHW, ctx.size, ctx.alpha, ctx.beta, _ = inputs
        y_BCHW, scale = output
        ctx.mark_non_differentiable(scale)
        ctx.save_for_backward(x_BCHW, y_BCHW, scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale = ctx.saved_tensors
        window = x.new_tensor(_window_back(x.shape[1], ctx.size))
        with _as_it_is(x):
            ratios = torch.einsum("cd,bdhw->bchw", window, g * y / scale)
        factor = 2 * ctx.alpha * ctx.beta / ctx.size
        return scale.pow(-ctx.beta) * g - factor * x * ratios, None, None, None, None
