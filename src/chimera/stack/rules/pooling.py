"""Fractional pooling and unpooling with a member axis: the images of all members as one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.stack.rules.functions import fold_members, replaces
from chimera.stack.rules.table import rule


def _fractional(
    axes: int,
    pool: Callable[..., Any],
    input: Tensor,
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    samples: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The maxima and their indices; ``samples`` are drawn as torch draws them."""
    if output_size is None:
        if output_ratio is None:
            raise ValueError("fractional pooling requires an output_size or an output_ratio")
        ratios = _tuple(output_ratio, axes)
        output_size = [int(n * r) for n, r in zip(input.shape[-axes:], ratios, strict=True)]
    batched = input.dim() == axes + 2
    if samples is None:
        rows = input.shape[0] if batched else 1
        shape = (rows, input.shape[-axes - 1], axes)
        samples = torch.rand(shape, dtype=input.dtype, device=input.device)
    if not batched:
        samples = samples.squeeze(0)
    kernel = _tuple(kernel_size, axes)

    def every_image(images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = pool(images, kernel, output_size, drawn)
        return found

    maxima, indices = fold_members(every_image, input, samples, batched=batched)
    return maxima, indices


def _tuple(value: Any, axes: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * axes


def _fractional_function(axes: int, pool: Callable[..., Any]) -> Callable[..., Any]:
    def fractional_max_pool(
        input: Tensor,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> Any:
        found = _fractional(
            axes, pool, input, kernel_size, output_size, output_ratio, _random_samples
        )
        return found if return_indices else found[0]

    return fractional_max_pool


def _with_indices(fractional_max_pool: Callable[..., Any]) -> Callable[..., Any]:
    def with_indices(input: Tensor, kernel_size: Any, *args: Any, **options: Any) -> Any:
        options["return_indices"] = True
        return fractional_max_pool(input, kernel_size, *args[:2], **options)

    return with_indices


fractional_max_pool2d = replaces(F.fractional_max_pool2d)(
    _fractional_function(2, torch.ops.aten.fractional_max_pool2d)
)
fractional_max_pool3d = replaces(F.fractional_max_pool3d)(
    _fractional_function(3, torch.ops.aten.fractional_max_pool3d)
)
replaces(F.fractional_max_pool2d_with_indices)(_with_indices(fractional_max_pool2d))
replaces(F.fractional_max_pool3d_with_indices)(_with_indices(fractional_max_pool3d))


@rule(nn.FractionalMaxPool2d, "images of all members")
@rule(nn.FractionalMaxPool3d, "images of all members")
def _fractional_max_pool(module: Any, input: Tensor) -> Any:
    is_flat = isinstance(module, nn.FractionalMaxPool2d)
    return (fractional_max_pool2d if is_flat else fractional_max_pool3d)(
        input,
        module.kernel_size,
        module.output_size,
        module.output_ratio,
        module.return_indices,
        _random_samples=module._random_samples,
    )


def _unpool_function(axes: int) -> Callable[..., Tensor]:
    def max_unpool(
        input: Tensor,
        indices: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        output_size: Any = None,
    ) -> Tensor:
        if indices.shape != input.shape:
            raise RuntimeError(
                f"Expected shape of indices to be that of the input ({list(input.shape)}), "
                f"got {list(indices.shape)}"
            )
        kernel = _tuple(kernel_size, axes)
        size = _unpooled(
            input.shape[-axes:],
            kernel,
            kernel if stride is None else _tuple(stride, axes),
            _tuple(padding, axes),
            output_size,
        )
        where = indices.flatten(-axes)
        count = math.prod(size)
        flat = input.new_zeros(*input.shape[:-axes], count)
        unpooled: Tensor = flat.scatter(-1, where, input.flatten(-axes)).unflatten(-1, size)
        return unpooled

    return max_unpool


def _unpooled(
    before: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    wanted: Sequence[int] | None,
) -> list[int]:
    """The size after unpooling: as pooling would have taken it, or ``wanted`` if that fits."""
    size = [
        (n - 1) * step + k - 2 * pad
        for n, step, k, pad in zip(before, stride, kernel, padding, strict=True)
    ]
    if wanted is None:
        return size
    wanted = list(wanted)[-len(size) :] if len(wanted) == len(size) + 2 else list(wanted)
    if len(wanted) != len(size):
        raise ValueError(
            f"output_size should hold {len(size)} or {len(size) + 2} elements, has {len(wanted)}"
        )
    for d, (n, step, given) in enumerate(zip(size, stride, wanted, strict=True)):
        if not n - step < given < n + step:
            raise ValueError(
                f"invalid output_size {wanted} (dim {d} must be between {n - step} and {n + step})"
            )
    return wanted


_UNPOOL = {
    nn.MaxUnpool1d: replaces(F.max_unpool1d)(_unpool_function(1)),
    nn.MaxUnpool2d: replaces(F.max_unpool2d)(_unpool_function(2)),
    nn.MaxUnpool3d: replaces(F.max_unpool3d)(_unpool_function(3)),
}


@rule(nn.MaxUnpool1d, "images of all members")
@rule(nn.MaxUnpool2d, "images of all members")
@rule(nn.MaxUnpool3d, "images of all members")
def _max_unpool(module: Any, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
    return _UNPOOL[type(module)](
        input, indices, module.kernel_size, module.stride, module.padding, output_size
    )
