"""Operations on lanes side by side: layers that may differ in width from branch to branch.

Only what fits is run: a value that a layer alone would refuse, or whose lanes stand along another
axis than the layer works on, is ``Refused``, and the branches run one by one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.blocks import Residual
from chimera.fuse.beside import Beside
from chimera.fuse.beside_products import Products
from chimera.fuse.convolutions import BATCH_NORMS, CONVOLUTIONS, POOLS, joints_of_norm
from chimera.fuse.program import (
    BESIDE,
    Met,
    Operation,
    Program,
    Refused,
    Run,
    Unlowerable,
    lower,
    lowers,
    tensor,
)

_TABLES = (BESIDE,)


def _flat(run: Run, index: int | None) -> Tensor | None:
    found = tensor(run, index)
    return None if found is None else found.reshape(-1)


def _other_dtype(x: Beside, w: Tensor) -> bool:
    kind = x.tensor.device.type
    return x.tensor.dtype != w.dtype and not (kind != "meta" and torch.is_autocast_enabled(kind))


def _fits(x: Beside, widths: tuple[int, ...], axis: int, kind: str) -> None:
    """Let lanes of other widths, or along another axis, run one by one."""
    mine = tuple([x.tensor.shape[axis]] * len(widths)) if x.widths is None else x.widths
    if mine != widths or (x.widths is not None and x.axis != axis):
        raise Refused(f"a {kind} that does not take what comes, or not along this axis")


@lowers(nn.Linear, tables=_TABLES)
def _linear(program: Program, modules: tuple[Any, ...]) -> Operation:
    weight, bias = program.joint(modules, "weight"), program.joint(modules, "bias")
    assert weight is not None
    ins = tuple(module.weight.shape[1] for module in modules)
    outs = tuple(module.weight.shape[0] for module in modules)
    products = Products(ins, outs)

    def run_linear(x: Beside, run: Run) -> Beside:
        axis = x.tensor.dim() - 1
        w, b = run.tensors[weight].reshape(-1), _flat(run, bias)
        if axis < 0 or _other_dtype(x, w):
            raise Refused("a Linear that does not take what comes")
        _fits(x, ins, axis, "Linear")
        if x.widths is None:
            return Beside(F.linear(x.tensor, w.view(-1, ins[0]), b), outs, axis)
        rows = x.tensor.shape[:-1]
        flat = x.tensor.reshape(-1, x.tensor.shape[-1])
        run.ways.append(_way(products.pads(flat), len(products.groups), len(modules)))
        return Beside(products(flat, w, b).view(*rows, sum(outs)), outs, axis)

    return run_linear


def _way(pads: bool, groups: int, lanes: int) -> str:
    return "padded to the widest" if pads else f"{lanes} in {groups} groups of one width"


@lowers(*CONVOLUTIONS, tables=_TABLES)
def _convolution(program: Program, modules: tuple[Any, ...]) -> Operation:
    module, kind = modules[0], type(modules[0])
    if module.padding_mode != "zeros" or module.groups != 1:
        raise Unlowerable(f"{kind.__name__} of several widths in groups, or padded otherwise")
    function, axes = CONVOLUTIONS[kind]
    weight, bias = program.joint(modules, "weight"), program.joint(modules, "bias")
    assert weight is not None
    ins = tuple(each.weight.shape[1] for each in modules)
    outs = tuple(each.weight.shape[0] for each in modules)
    kernel = tuple(module.weight.shape[2:])
    products = Products(ins, outs)
    options = (module.stride, module.padding, module.dilation)

    def run_convolution(x: Beside, run: Run) -> Beside:
        w, b = run.tensors[weight].reshape(-1), _flat(run, bias)
        if x.tensor.dim() != axes or _other_dtype(x, w):
            raise Refused(f"a {kind.__name__} that does not take what comes")
        _fits(x, ins, 1, kind.__name__)
        if x.widths is None:
            y = function(x.tensor, w.view(-1, ins[0], *kernel), b, *options)
        else:
            y = _later(x.tensor, w, b, run)
        return Beside(y, outs, 1)

    def _later(x: Tensor, w: Tensor, b: Tensor | None, run: Run) -> Tensor:
        run.ways.append(_way(False, len(products.groups), len(modules)))
        size = kernel_size(kernel)
        xs = x.split([g.lanes * g.ins for g in products.groups], 1)
        ws = w.split([g.lanes * g.ins * g.outs * size for g in products.groups])
        bs = [None] * len(xs) if b is None else b.split([g.lanes * g.outs for g in products.groups])
        made = [
            function(x_, w_.view(g.lanes * g.outs, g.ins, *kernel), b_, *options, g.lanes)
            for x_, w_, b_, g in zip(xs, ws, bs, products.groups, strict=True)
        ]
        return torch.cat(made, 1) if len(made) > 1 else made[0]

    return run_convolution


def kernel_size(kernel: tuple[int, ...]) -> int:
    """How many numbers a kernel has for one pair of channels."""
    return int(torch.Size(kernel).numel())


@lowers(*POOLS, tables=_TABLES)
def _pool(program: Program, modules: tuple[Any, ...]) -> Operation:
    module, axes = modules[0], POOLS[type(modules[0])]
    if getattr(module, "return_indices", False):
        raise Unlowerable(f"return_indices of {type(module).__name__}")

    def run_pool(x: Beside, run: Run) -> Beside:
        if x.tensor.dim() != axes or (x.widths is not None and x.axis != 1):
            raise Refused(f"a {type(module).__name__} that does not take what comes")
        return x.like(module.forward(x.tensor))

    return run_pool


@lowers(*BATCH_NORMS, tables=_TABLES)
def _batch_norm(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]
    weight, bias, mean, var, count = joints_of_norm(program, modules)
    axes, widths = BATCH_NORMS[type(module)], tuple(each.num_features for each in modules)

    def run_batch_norm(x: Beside, run: Run) -> Beside:
        if x.tensor.dim() not in axes:
            raise Refused(f"a {type(module).__name__} that does not take what comes")
        _fits(x, widths, 1, type(module).__name__)
        value = _each_its_own(x, len(modules), 1)
        counted = tensor(run, count)
        if module.training and counted is not None:
            counted.add_(1)
        return value.like(
            F.batch_norm(
                value.tensor,
                _flat(run, mean),
                _flat(run, var),
                _flat(run, weight),
                _flat(run, bias),
                module.training or mean is None,
                module.momentum,
                module.eps,
            )
        )

    return run_batch_norm


def _each_its_own(x: Beside, lanes: int, axis: int) -> Beside:
    """``x`` with a value for every lane."""
    if x.widths is not None:
        return x
    return Beside(torch.cat([x.tensor] * lanes, axis), (x.tensor.shape[axis],) * lanes, axis)


@lowers(nn.LayerNorm, nn.RMSNorm, tables=_TABLES)
def _row_norm(program: Program, modules: tuple[Any, ...]) -> Operation:
    kind = type(modules[0])
    weight = program.joint(modules, "weight")
    bias = program.joint(modules, "bias") if kind is nn.LayerNorm else None
    function: Any = F.layer_norm if kind is nn.LayerNorm else F.rms_norm
    shapes = [tuple(module.normalized_shape) for module in modules]
    if any(len(shape) != 1 for shape in shapes):
        raise Unlowerable(f"{kind.__name__} over several axes of different widths")
    widths = tuple(shape[0] for shape in shapes)

    def run_row_norm(x: Beside, run: Run) -> Beside:
        axis = x.tensor.dim() - 1
        _fits(x, widths, axis, kind.__name__)
        x = _each_its_own(x, len(modules), axis)
        normed = [
            function(part, shape, eps=modules[0].eps)
            for part, shape in zip(x.parts(len(modules)), shapes, strict=True)
        ]
        y, w, b = torch.cat(normed, axis), _flat(run, weight), _flat(run, bias)
        if w is not None:
            y = y * w if b is None else torch.addcmul(b, y, w)
        return x.like(y)

    return run_row_norm


@lowers(nn.Softmax, nn.LogSoftmax, tables=_TABLES)
def _softmax(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]
    if module.dim is None:
        raise Unlowerable("a softmax without dim chooses the axis by the input's axes")

    def run_softmax(x: Beside, run: Run) -> Beside:
        if x.widths is None or module.dim % x.tensor.dim() != x.axis:
            return x.like(module.forward(x.tensor))
        return x.like(torch.cat([module.forward(part) for part in x.parts(len(modules))], x.axis))

    return run_softmax


@lowers(nn.Flatten, tables=_TABLES)
def _flatten(program: Program, modules: tuple[Any, ...]) -> Operation:
    module = modules[0]

    def run_flatten(x: Beside, run: Run) -> Beside:
        y = x.tensor.flatten(module.start_dim, module.end_dim)
        first = module.start_dim % x.tensor.dim()
        if x.widths is None or first > x.axis:
            return x.like(y)
        if first != x.axis:
            raise Refused("a Flatten of the axis before the lanes'")
        more = y.shape[first] // x.tensor.shape[first]
        return Beside(y, tuple(width * more for width in x.widths), first)

    return run_flatten


@lowers(nn.Dropout, tables=_TABLES)
def _dropout(program: Program, modules: tuple[Any, ...]) -> Operation:
    program.moded.append(modules)
    program.dropouts.append(modules)

    def run_dropout(x: Beside, run: Run) -> Beside:
        if not modules[0].training:
            return x
        x = _each_its_own(x, len(modules), x.tensor.dim() - 1)
        y = x.tensor
        if run.shapes is not None:
            run.shapes.append(Met(modules, tuple(y.shape), y.dtype, y.device, x.widths, x.axis))
            return x
        if run.noises is None:  # in a graph
            return x.like(_dropped(modules, x))
        return x.like(y * next(run.noises))

    return run_dropout


def _dropped(modules: tuple[Any, ...], x: Beside) -> Tensor:
    rates = [module.p for module in modules]
    if len(set(rates)) == 1:
        return F.dropout(x.tensor, rates[0], training=True)
    pairs = zip(x.parts(len(modules)), rates, strict=True)
    return torch.cat([F.dropout(part, rate, training=True) for part, rate in pairs], x.axis)


@lowers(Residual, tables=_TABLES)
def _residual(program: Program, modules: tuple[Any, ...]) -> Operation:
    projection: Operation | None = None
    if modules[0].projection is not None:
        projection = lower(program, tuple(module.projection for module in modules))
    body = lower(program, tuple(module.body for module in modules))

    def run_residual(x: Beside, run: Run) -> Beside:
        kept: Beside = x if projection is None else projection(x, run)
        made: Beside = body(x, run)
        if kept.widths is None and made.widths is not None:
            kept = _each_its_own(kept, len(modules), made.axis)
        elif made.widths is None and kept.widths is not None:
            made = _each_its_own(made, len(modules), kept.axis)
        if (kept.tensor.shape, kept.widths, kept.axis) != (
            made.tensor.shape,
            made.widths,
            made.axis,
        ):
            raise Refused("a Residual whose body gives another shape than it takes")
        return made.like(kept.tensor + made.tensor)

    return run_residual
