"""Operations of layers that see a row at a time: products, activations, norms, dropout."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.fuse.lanes import Lanes, product
from chimera.fuse.program import (
    BESIDE,
    LANES,
    Met,
    Operation,
    Program,
    Run,
    Unlowerable,
    after_lanes,
    lowers,
    per_lane,
    tensor,
)

_POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink,
    nn.Tanhshrink, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Threshold, nn.Identity,
)  # fmt: skip


@lowers(*_POINTWISE, tables=(LANES, BESIDE))
def _pointwise(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]
    if getattr(module, "inplace", False):
        module = copy.copy(module)
        module.inplace = False
    forward = module.forward

    def run_pointwise(x: Any, run: Run) -> Any:
        return x.like(forward(x.tensor))

    return run_pointwise


@lowers(nn.Softmax, nn.LogSoftmax)
def _softmax(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]
    if module.dim is None:
        raise Unlowerable("a softmax without dim chooses the axis by the input's axes")
    function = torch.softmax if type(module) is nn.Softmax else torch.log_softmax

    def run_softmax(x: Lanes, run: Run) -> Lanes:
        return Lanes(function(x.tensor, _axis(module, x, module.dim)), x.spread)

    return run_softmax


@lowers(nn.Flatten)
def _flatten(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]

    def run_flatten(x: Lanes, run: Run) -> Lanes:
        first, last = _axis(module, x, module.start_dim), _axis(module, x, module.end_dim)
        return Lanes(x.tensor.flatten(first, last), x.spread)

    return run_flatten


def _axis(module: Any, x: Lanes, dim: int) -> int:
    """``dim`` with the lanes first; one that the layer's input has not raises as alone."""
    axes = x.tensor.dim() - 1
    if not -axes <= dim < axes:
        module.forward(x.one())
    return after_lanes(dim)


@lowers(nn.Linear)
def linear(program: Program, modules: tuple[Any, ...], *, relu: bool = False) -> Operation:
    """``Linear``; with ``relu`` the ``ReLU`` that follows it too."""
    weight, bias = program.joint(modules, "weight"), program.joint(modules, "bias")
    module = modules[0]
    assert weight is not None

    def run_linear(x: Lanes, run: Run) -> Lanes:
        w, b = run.tensors[weight], tensor(run, bias)
        if x.tensor.dim() < 2 or x.tensor.shape[-1] != w.shape[-1] or x.tensor.dtype != w.dtype:
            module.forward(x.one())  # raises as the layer alone, if it does
        return Lanes(product(x, w, b, relu=relu))

    return run_linear


@lowers(nn.LayerNorm, nn.RMSNorm)
def _row_norm(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]
    weight = program.joint(modules, "weight")
    bias = program.joint(modules, "bias") if hasattr(module, "bias") else None
    function: Any = F.layer_norm if type(module) is nn.LayerNorm else F.rms_norm
    shape = tuple(module.normalized_shape)

    def run_row_norm(x: Lanes, run: Run) -> Lanes:
        if tuple(x.tensor.shape[1:][-len(shape) :]) != shape:
            module.forward(x.one())
        y = function(x.tensor, shape, eps=module.eps)
        w, b = tensor(run, weight), tensor(run, bias)
        if w is None:
            return Lanes(y, x.spread)
        y = Lanes(y, x.spread).full()
        w = per_lane(w, y, y.dim() - len(shape))
        if b is None:
            return Lanes(y * w)
        return Lanes(torch.addcmul(per_lane(b, y, y.dim() - len(shape)), y, w))

    return run_row_norm


@lowers(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
def _dropout(program: Program, modules: tuple[Any, ...]) -> Operation:
    program.moded.append(modules)
    program.dropouts.append(modules)

    def run_dropout(x: Lanes, run: Run) -> Lanes:
        if not modules[0].training:
            return x
        if run.shapes is not None:
            full = x.full()
            run.shapes.append(Met(modules, tuple(full.shape), full.dtype, full.device))
            return Lanes(full)
        if run.noises is None:  # in a graph
            return Lanes(x.full() * _noise_at_once(modules, x.full()))
        return Lanes(x.full() * next(run.noises))

    return run_dropout


def _noise_at_once(modules: tuple[Any, ...], like: Tensor) -> Tensor:
    """What all lanes multiply by, drawn in one go; whole channels where the layer drops those."""
    rates = [module.p for module in modules]
    if len(set(rates)) == 1 and rates[0] in (0.0, 1.0):
        return torch.full_like(like, 1.0 - rates[0])
    whole = type(modules[0]) is not nn.Dropout
    shape = like.shape[:3] + (1,) * (like.dim() - 3) if whole else like.shape
    keep = 1.0 - torch.tensor(rates, dtype=like.dtype, device=like.device)
    keep = keep.view(-1, *[1] * (like.dim() - 1))
    return torch.where(torch.rand(shape, dtype=like.dtype, device=like.device) < keep, 1 / keep, 0)


def draw(module: Any, room: Tensor) -> None:
    """Draw one lane's noise from torch's generator, as the layer alone draws it.

    Its own forward, on ones: the numbers that it takes from the generator depend on the shape
    alone.
    """
    with torch.no_grad():
        room.copy_(module.forward(torch.ones_like(room)))
