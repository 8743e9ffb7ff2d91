"""Products of lanes of different widths that stand side by side.

``Products`` knows the sizes of one layer in every lane. Neighbours of equal sizes are one batched
product (*grouped*); where many sizes meet, all lanes can be *padded* with zeros to the widest and
be one batched product: the padding is cut off again at once, so that it meets nothing, and the
parameters have none.

Shapes: L lanes, B rows; I and O features of one lane, which differ between lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.fuse.lanes import Lanes, product
from chimera.fuse.transforms import transformed


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring lanes of equal sizes."""

    lanes: int
    ins: int
    outs: int


@dataclass(frozen=True, slots=True)
class Costs:
    """What decides between groups and padding, on one kind of device.

    Attributes:
        group: what one group's product takes, in seconds, forward and backward.
        padding: what padding takes whatever the sizes.
        number: for every number that is moved into, or out of, padded memory.
        operation: for every multiplication that padding adds.
    """

    group: float
    padding: float
    number: float
    operation: float

    def pads(self, groups: int, numbers: int, operations: int) -> bool:
        """Whether padding so many numbers, at so many more operations, takes less."""
        return (
            self.padding + self.number * numbers + self.operation * operations < self.group * groups
        )


# ``benchmarks/branches_widths.py`` measures them on a CPU. Elsewhere nothing was measured: there a
# group's launches weigh more, and numbers and operations less.
CPU = Costs(group=35e-6, padding=260e-6, number=1.5e-9, operation=6e-11)
OTHER = Costs(group=100e-6, padding=300e-6, number=5e-11, operation=1e-12)


USUAL_ROWS = 32


class Products:
    """The products of one layer in lanes of different widths.

    Args:
        ins: the input features of each lane.
        outs: the output features of each.
    """

    def __init__(self, ins: tuple[int, ...], outs: tuple[int, ...]) -> None:
        self.ins, self.outs = ins, outs
        self.groups: list[Group] = []
        for i, o in zip(ins, outs, strict=True):
            last = self.groups[-1] if self.groups else None
            if last is not None and (last.ins, last.outs) == (i, o):
                self.groups[-1] = Group(last.lanes + 1, i, o)
            else:
                self.groups.append(Group(1, i, o))
        self._in_sizes = [g.lanes * g.ins for g in self.groups]
        self._out_sizes = [g.lanes * g.outs for g in self.groups]
        self._weight_sizes = [g.lanes * g.outs * g.ins for g in self.groups]
        self._shapes = [
            (g.outs, g.ins) if g.lanes == 1 else (g.lanes, g.outs, g.ins) for g in self.groups
        ]
        self._padding: dict[torch.device, Padding] = {}

    def __call__(self, x_BI: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """``[B, sum of O]`` from ``[B, sum of I]``.

        Args:
            x_BI: the lanes' inputs, side by side.
            w: the lanes' weights ``[O, I]``, one after the other, flat.
            b: the lanes' biases, flat.
        """
        if self.pads(x_BI):
            return self._padded(x_BI, w, b)
        if transformed() or x_BI.is_meta or torch.is_autocast_enabled(x_BI.device.type):
            return self._grouped(x_BI, w, b)
        return _Grouped.apply(x_BI, w, b, self)  # type: ignore[no-any-return, no-untyped-call]

    def pads(self, x_BI: Tensor) -> bool:
        """Whether lanes are padded for an input like this one."""
        lanes, rows = len(self.ins), x_BI.shape[0]
        if not isinstance(rows, int):  # of any size, in a graph: no guard on it
            rows = USUAL_ROWS
        i, o = max(self.ins), max(self.outs)
        real = sum(a * b for a, b in zip(self.ins, self.outs, strict=True))
        numbers = 3 * (lanes * i * o + rows * lanes * (i + o))
        operations = 6 * rows * (lanes * i * o - real)
        costs = CPU if x_BI.device.type in ("cpu", "meta") else OTHER
        return costs.pads(len(self.groups), numbers, operations)

    def _grouped(self, x_BI: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        xs, ws = self.inputs(x_BI), self.weights(w)
        bs = [None] * len(xs) if b is None else self.biases(b)
        return beside([_product(x, w_, b_) for x, w_, b_ in zip(xs, ws, bs, strict=True)])

    def inputs(self, x_BI: Tensor) -> list[Tensor]:
        """``[B, I]`` of each group of one lane, ``[lanes, B, I]`` of others."""
        split = torch.split_with_sizes(x_BI, self._in_sizes, 1)
        return [_batched(x, g.lanes) for x, g in zip(split, self.groups, strict=True)]

    def outputs(self, y_BO: Tensor) -> list[Tensor]:
        """``[B, O]`` of each group of one lane, ``[lanes, B, O]`` of others."""
        split = torch.split_with_sizes(y_BO, self._out_sizes, 1)
        return [_batched(y, g.lanes) for y, g in zip(split, self.groups, strict=True)]

    def weights(self, w: Tensor) -> list[Tensor]:
        """``[O, I]`` of each group of one lane, ``[lanes, O, I]`` of others."""
        split = torch.split_with_sizes(w, self._weight_sizes)
        return [x.view(shape) for x, shape in zip(split, self._shapes, strict=True)]

    def biases(self, b: Tensor) -> list[Tensor | None]:
        """``[O]`` of each group of one lane, ``[lanes, 1, O]`` of others."""
        split = torch.split_with_sizes(b, self._out_sizes)
        return [
            x if g.lanes == 1 else x.view(g.lanes, 1, g.outs)
            for x, g in zip(split, self.groups, strict=True)
        ]

    def _padded(self, x_BI: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        padding = self.padding(x_BI.device)
        lanes, i, o = len(self.ins), max(self.ins), max(self.outs)
        x = spread(x_BI, padding.ins, 1, lanes * i)
        x_LBI = x.view(x_BI.shape[0], lanes, i).transpose(0, 1)
        w_LOI = spread(w, padding.weights, 0, lanes * o * i).view(lanes, o, i)
        b_LO = None if b is None else spread(b, padding.outs, 0, lanes * o).view(lanes, o)
        y_LBO = product(Lanes(x_LBI), w_LOI, b_LO)
        return gathered(y_LBO.transpose(0, 1).reshape(x_BI.shape[0], lanes * o), padding.outs, 1)

    def padding(self, device: torch.device) -> Padding:
        """Where the lanes' numbers stand among padded ones."""
        if device.type == "meta" or transformed():
            return Padding.of(self.ins, self.outs, device)
        found = self._padding.get(device)
        if found is None:
            found = Padding.of(self.ins, self.outs, device)
            if type(found.ins) is torch.Tensor:  # others are of the trace that is under way
                self._padding[device] = found
        return found


@dataclass(frozen=True, slots=True)
class Padding:
    """Where, in padded memory, the numbers of lanes go; each goes to a place of its own.

    Attributes:
        ins: of the inputs, among ``lanes * widest``.
        outs: of the outputs.
        weights: of the weights, among ``lanes * widest output * widest input``.
    """

    ins: Tensor
    outs: Tensor
    weights: Tensor

    @staticmethod
    def of(ins: tuple[int, ...], outs: tuple[int, ...], device: torch.device) -> Padding:
        """That of lanes of these sizes."""
        i, o = max(ins), max(outs)
        weights = [
            torch.arange(b, device=device).view(-1, 1).mul(i).add(torch.arange(a, device=device))
            .add(lane * i * o)
            .flatten()
            for lane, (a, b) in enumerate(zip(ins, outs, strict=True))
        ]  # fmt: skip
        return Padding(places(ins, i, device), places(outs, o, device), torch.cat(weights))


def places(widths: tuple[int, ...], widest: int, device: torch.device) -> Tensor:
    """Where lanes of ``widths``, one after the other, stand when each has room for ``widest``."""
    return torch.cat(
        [torch.arange(width, device=device) + lane * widest for lane, width in enumerate(widths)]
    )


def beside(made: list[Tensor]) -> Tensor:
    """``[B, sum of O]`` of the outputs of groups."""
    return torch.cat([y if y.dim() == 2 else y.transpose(0, 1).flatten(1) for y in made], 1)


def _batched(x: Tensor, lanes: int) -> Tensor:
    if lanes == 1:
        return x
    return x.view(x.shape[0], lanes, x.shape[1] // lanes).transpose(0, 1)


def _product(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    if x.dim() == 2:
        return torch.mm(x, w.t()) if b is None else torch.addmm(b, x, w.t())
    w = w.transpose(1, 2)
    return torch.bmm(x, w) if b is None else torch.baddbmm(b, x, w)


class _Grouped(torch.autograd.Function):
    """``Products._grouped`` in one node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, products: Products) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.products = products
        return products._grouped(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        if g.is_complex():
            x, w = x.conj(), w.conj()
        products: Products = ctx.products
        need_x, need_w, need_b, _ = ctx.needs_input_grad
        gs = products.outputs(g)
        dx = dw = None
        if need_x:
            ws = products.weights(w)
            dx = beside([y @ v for y, v in zip(gs, ws, strict=True)])
        if need_w:
            xs = products.inputs(x)
            dw = torch.cat([(y.mT @ z).view(-1) for y, z in zip(gs, xs, strict=True)])
        return dx, dw, g.sum(0) if need_b else None, None


def spread(x: Tensor, index: Tensor, dim: int, size: int) -> Tensor:
    """``x`` along ``dim`` at the places ``index`` of ``size``, zeros elsewhere."""
    if transformed() or x.is_meta:
        return _spread(x, index, dim, size)
    return _Spread.apply(x, index, dim, size)  # type: ignore[no-any-return, no-untyped-call]


def gathered(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """What stands in ``x`` along ``dim`` at the places ``index``, none of which comes twice."""
    if transformed() or x.is_meta:
        return x.index_select(dim, index)
    return _Gathered.apply(x, index, dim)  # type: ignore[no-any-return, no-untyped-call]


def _spread(x: Tensor, index: Tensor, dim: int, size: int) -> Tensor:
    shape = list(x.shape)
    shape[dim] = size
    return x.new_zeros(shape).index_copy(dim, index, x)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, dim: int, size: int) -> Tensor:
        ctx.index, ctx.dim = index, dim
        shape = list(x.shape)
        shape[dim] = size
        return x.new_zeros(shape).index_copy_(dim, index, x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return gathered(g, ctx.index, ctx.dim), None, None, None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, dim: int) -> Tensor:
        ctx.index, ctx.dim, ctx.size = index, dim, x.shape[dim]
        return x.index_select(dim, index)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return spread(g, ctx.index, ctx.dim, ctx.size), None, None
