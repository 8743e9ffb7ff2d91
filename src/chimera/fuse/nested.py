"""Operations of blocks: chains, residuals, repeats, and a Parallel inside a branch.

The branches of an inner ``Parallel`` that are of one structure become lanes of their own: ``L``
branches with ``M`` inside each run as ``L * M`` lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.blocks import Parallel, Repeat, Residual, Sequential
from chimera.blocks.children import children
from chimera.fuse.lanes import Lanes
from chimera.fuse.layers import linear
from chimera.fuse.program import BESIDE, LANES, Operation, Program, Run, Unlowerable, lower, lowers
from chimera.paths.structure import difference, read


def chain(operations: Sequence[Operation]) -> Operation:
    """One operation after the other."""

    def run_chain(x: Lanes, run: Run) -> Lanes:
        for operation in operations:
            x = operation(x, run)
        return x

    return run_chain


def _aligned(modules: tuple[nn.Module, ...]) -> list[tuple[nn.Module, ...]]:
    """The children at each position, one a lane."""
    return list(zip(*map(children, modules), strict=True))


@lowers(nn.Sequential, Sequential, tables=(LANES, BESIDE))
def _chain(program: Program, modules: tuple[Any, ...]) -> Operation:
    # A splat concerns tuples; no operation gives one.
    operations: list[Operation] = []
    steps = _aligned(modules)
    while steps:
        parts = steps.pop(0)
        if program.table is LANES and _is(parts, nn.Linear) and steps and _is(steps[0], nn.ReLU):
            steps.pop(0)
            operations.append(linear(program, parts, relu=True))
        else:
            operations.append(lower(program, parts))
    return chain(operations)


def _is(modules: tuple[nn.Module, ...], kind: type[nn.Module]) -> bool:
    return type(modules[0]) is kind and "forward" not in vars(modules[0])


@lowers(Repeat, tables=(LANES, BESIDE))
def _repeat(program: Program, modules: tuple[Any, ...]) -> Operation:
    return chain([lower(program, parts) for parts in zip(*modules, strict=True)])


@lowers(Residual)
def _residual(program: Program, modules: tuple[Any, ...]) -> Operation:
    projection: Operation | None = None
    if modules[0].projection is not None:
        projection = lower(program, tuple(module.projection for module in modules))
    body = lower(program, tuple(module.body for module in modules))

    def run_residual(x: Lanes, run: Run) -> Lanes:
        kept = x if projection is None else projection(x, run)
        made = body(x, run)
        if kept.tensor.shape[1:] != made.tensor.shape[1:]:
            modules[0].forward(x.one())  # raises as the block alone
        if kept.spread == made.spread:
            return Lanes(kept.tensor + made.tensor, kept.spread)
        return Lanes(kept.full() + made.full())

    return run_residual


@lowers(Parallel)
def _parallel(program: Program, modules: tuple[Any, ...]) -> Operation:
    first = modules[0]
    if not isinstance(first.combine, str) or first.combine == "tuple":
        raise Unlowerable("a Parallel that gives anything but one tensor")
    if first.inputs != "same" or first.devices is not None:
        raise Unlowerable("a Parallel with inputs='each' or devices=")
    before = len(program.dropouts)
    positions = _aligned(modules)
    readings = [read(parts[0]) for parts in positions]
    alike = all(difference(readings[0], reading) is None for reading in readings[1:])
    operation = _together(program, first, positions) if alike else _apart(program, first, positions)
    if alike and len(positions) > 1 and len(program.dropouts) > before:
        program.in_order = False
    return operation


def _together(
    program: Program, block: Parallel, positions: list[tuple[nn.Module, ...]]
) -> Operation:
    inner = lower(program, [module for lane in zip(*positions, strict=True) for module in lane])
    width = len(positions)

    def run_together(x: Lanes, run: Run) -> Lanes:
        wide = Lanes(x.tensor, x.spread * width)
        made = inner(wide, run)
        lanes = len(x)
        full = made.full()
        return Lanes(combined(block, full.view(lanes, width, *full.shape[1:]), run, x))

    return run_together


def _apart(program: Program, block: Parallel, positions: list[tuple[nn.Module, ...]]) -> Operation:
    inner = [lower(program, parts) for parts in positions]

    def run_apart(x: Lanes, run: Run) -> Lanes:
        made = [operation(x, run).full() for operation in inner]
        return Lanes(_joined(block, made, x))

    return run_apart


def combined(block: Parallel, values: Tensor, run: Run, x: Lanes) -> Tensor:
    """``[L, ...]`` of the inner branches' values ``[L, width, ...]``, as the block combines."""
    axes = values.dim() - 2
    dim = _dim(block, axes, x)
    if block.combine == "concat":
        return values.movedim(1, dim + 1).flatten(dim + 1, dim + 2)
    if block.combine == "stack":
        return values.movedim(1, dim + 1)
    return values.sum(1) if block.combine == "sum" else values.sum(1) / values.shape[1]


def _joined(block: Parallel, values: list[Tensor], x: Lanes) -> Tensor:
    dim = _dim(block, values[0].dim() - 1, x)
    shapes = {(*v.shape[: dim + 1], *v.shape[dim + 2 :]) for v in values}
    if block.combine == "concat" and len(shapes) == 1:
        return torch.cat(values, dim + 1)
    if len({value.shape for value in values}) > 1:
        block.forward(x.one())
    if block.combine == "stack":
        return torch.stack(values, dim + 1)
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total if block.combine == "sum" else total / len(values)


def _dim(block: Parallel, axes: int, x: Lanes) -> int:
    """The block's axis, counted from the front of a branch's own output."""
    axes += block.combine == "stack"
    if block.combine in ("concat", "stack") and not -axes <= block.dim < axes:
        block.forward(x.one())  # raises as the block alone
    return block.dim % axes if axes else 0
