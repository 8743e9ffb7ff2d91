"""Operations of layers with channels: convolutions, pooling, norms of channels.

The lanes' channels stand side by side in one tensor ``[B, K * C, ...]`` (a *folded* value), so that
a convolution with weights of every lane is one convolution in groups. Where all lanes share their
input it needs no groups: the weights are concatenated. Between two such layers the value keeps
its memory: folding and unfolding are views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from chimera.fuse.lanes import Lanes
from chimera.fuse.program import Operation, Program, Run, Unlowerable, lowers, tensor


def folded(x: Tensor) -> Tensor:
    """``[B, K * C, ...]`` of ``[K, B, C, ...]``."""
    return x.transpose(0, 1).reshape(x.shape[1], x.shape[0] * x.shape[2], *x.shape[3:])


def unfolded(y: Tensor, lanes: int) -> Tensor:
    """``[lanes, B, C, ...]`` of ``[B, lanes * C, ...]``."""
    return y.view(y.shape[0], lanes, y.shape[1] // lanes, *y.shape[2:]).transpose(0, 1)


def _flat(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.reshape(-1, *values.shape[2:])


CONVOLUTIONS: dict[type[nn.Module], tuple[Callable[..., Tensor], int]] = {
    nn.Conv1d: (F.conv1d, 3),
    nn.Conv2d: (F.conv2d, 4),
    nn.Conv3d: (F.conv3d, 5),
}


@lowers(*CONVOLUTIONS)
def _convolution(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]
    if module.padding_mode != "zeros":
        raise Unlowerable(f"padding_mode={module.padding_mode!r} of {type(module).__name__}")
    function, axes = CONVOLUTIONS[type(module)]
    weight, bias = program.joint(modules, "weight"), program.joint(modules, "bias")
    assert weight is not None

    def run_convolution(x: Lanes, run: Run) -> Lanes:
        if x.tensor.dim() != axes + 1 or x.tensor.shape[2] != module.in_channels:
            x = _alone(module, x, axes)
        if x.spread > 1 and module.groups > 1:
            x = Lanes(x.full())
        w = run.tensors[weight]
        y = function(
            folded(x.tensor),
            _flat(w),
            _flat(tensor(run, bias)),
            module.stride,
            module.padding,
            module.dilation,
            module.groups * len(x.tensor),
        )
        return Lanes(unfolded(y, len(w)))

    return run_convolution


def _alone(module: Any, x: Lanes, axes: int) -> Lanes:
    """Let the layer alone raise for an input that does not fit it."""
    module.forward(x.one())
    raise ValueError(
        f"{type(module).__name__} in fused branches takes inputs of {axes} axes, the first for "
        f"the batch; got {tuple(x.tensor.shape[1:])}"
    )


POOLS: dict[type[nn.Module], int] = {
    **{nn.MaxPool1d: 3, nn.AvgPool1d: 3, nn.AdaptiveAvgPool1d: 3, nn.AdaptiveMaxPool1d: 3},
    **{nn.MaxPool2d: 4, nn.AvgPool2d: 4, nn.AdaptiveAvgPool2d: 4, nn.AdaptiveMaxPool2d: 4},
    **{nn.MaxPool3d: 5, nn.AvgPool3d: 5, nn.AdaptiveAvgPool3d: 5, nn.AdaptiveMaxPool3d: 5},
}


@lowers(*POOLS)
def _pool(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]
    axes = POOLS[type(module)]
    if getattr(module, "return_indices", False):
        raise Unlowerable(f"return_indices of {type(module).__name__}")

    def run_pool(x: Lanes, run: Run) -> Lanes:
        if x.tensor.dim() != axes + 1:
            x = _alone(module, x, axes)
        y = module.forward(folded(x.tensor))
        return Lanes(unfolded(y, len(x.tensor)), x.spread)

    return run_pool


@lowers(nn.GroupNorm)
def _group_norm(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]
    weight, bias = program.joint(modules, "weight"), program.joint(modules, "bias")

    def run_group_norm(x: Lanes, run: Run) -> Lanes:
        if x.tensor.dim() < 3 or x.tensor.shape[2] != module.num_channels:
            module.forward(x.one())
        if weight is not None:
            x = Lanes(x.full())
        y = F.group_norm(
            folded(x.tensor),
            module.num_groups * len(x.tensor),
            _flat(tensor(run, weight)),
            _flat(tensor(run, bias)),
            module.eps,
        )
        return Lanes(unfolded(y, len(x.tensor)), x.spread)

    return run_group_norm


BATCH_NORMS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
}


def joints_of_norm(program: Program, modules: tuple[Any, ...]) -> list[int | None]:
    """Of batch norms: weight, bias, running mean and variance, and the count of batches.

    Raises:
        Unlowerable: their statistics are means of all batches, or of one norm for several lanes.
    """
    if modules[0].running_mean is not None and len({id(m.running_mean) for m in modules}) < len(
        modules
    ):
        raise Unlowerable("a batch norm that several lanes share, which each updates in turn")
    if modules[0].momentum is None:
        raise Unlowerable("batch norm with momentum=None")
    program.moded.append(modules)
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [program.joint(modules, name) for name in names]


@lowers(*BATCH_NORMS)
def _batch_norm(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]
    weight, bias, mean, var, count = joints_of_norm(program, modules)
    axes = BATCH_NORMS[type(module)]

    def run_batch_norm(x: Lanes, run: Run) -> Lanes:
        if x.tensor.dim() - 1 not in axes or x.tensor.shape[2] != module.num_features:
            module.forward(x.one())
        value = folded(x.full())
        counted = tensor(run, count)
        if module.training and counted is not None:
            counted.add_(1)
        y = F.batch_norm(
            value,
            _flat(tensor(run, mean)),
            _flat(tensor(run, var)),
            _flat(tensor(run, weight)),
            _flat(tensor(run, bias)),
            module.training or mean is None,
            module.momentum,
            module.eps,
        )
        return Lanes(unfolded(y, len(modules)))

    return run_batch_norm


@lowers(nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
def _pad(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]

    def run_pad(x: Lanes, run: Run) -> Lanes:
        return Lanes(F.pad(x.tensor, module.padding, value=module.value), x.spread)

    return run_pad


CHANNELED = (*CONVOLUTIONS, *POOLS, *BATCH_NORMS, nn.GroupNorm)
"""The layers whose lanes stand side by side as channels."""
