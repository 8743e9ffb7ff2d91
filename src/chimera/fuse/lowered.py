"""Branches of one structure as a program of operations with a lane axis.

The branches' own parameters and buffers are used, see ``joint``, and nothing is drawn that the
branches alone would not draw: a program draws a dropout's noise branch by branch, in the order in
which the branches alone do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from chimera.fuse import layers as layers
from chimera.fuse import nested as nested
from chimera.fuse.convolutions import CHANNELED
from chimera.fuse.joint import joined, write_back
from chimera.fuse.lanes import Lanes
from chimera.fuse.layers import draw
from chimera.fuse.part import Given, layers_of, said_by, structure_of
from chimera.fuse.program import LANES, Met, Program, Refused, Run, Table, lower
from chimera.fuse.reached import Reach


class Lowered:
    """Branches as a program.

    Args:
        branches: of one structure.
        order: the places of the branches in the order in which they run alone.

    Raises:
        Unlowerable: they have a module for which there is no operation.
    """

    table: Table = LANES

    def __init__(self, branches: Sequence[nn.Module], order: Sequence[int] | None = None) -> None:
        self._count = len(branches)
        self._order = list(range(self._count)) if order is None else list(order)
        program = Program(self.table)
        self._operation = lower(program, branches)
        self._program = program
        self.joints, self.moded = program.joints, program.moded
        folds = any(isinstance(m, CHANNELED) for m in branches[0].modules())
        self.kind = "convolutions" if folds else "products"
        self.layers = layers_of(branches[0])
        self.structure = structure_of(self, branches)
        self.said = ""
        self._met: dict[Any, list[Met]] = {}

    def refuses(self, given: Given, named: dict[str, Any], *, whole: bool) -> str | None:
        if named or not all(len(args) == 1 and isinstance(args[0], Tensor) for args in given):
            return "a program takes one tensor"
        first = given[0][0]
        if first.dim() == 0 or first.layout is not torch.strided:
            return "a program takes strided tensors with axes"
        if any(args[0] is not first for args in given) and any(
            (args[0].shape, args[0].dtype, args[0].device)
            != (first.shape, first.dtype, first.device)
            for args in given
        ):
            return "the branches' inputs are of different shapes"
        if self._active() and not (whole and self._program.in_order):
            return "dropout draws in the order of the branches, one after the other"
        return None

    def _active(self) -> bool:
        return any(modules[0].training for modules in self._program.dropouts)

    def run(self, given: Given, named: dict[str, Any], reach: Reach) -> Any:
        x = self._input(given)
        tensors, own = joined(self.joints, reach)
        run = Run(tensors)
        if self._active():
            run.noises = iter(self._noises(x))
        y = self._output(self._operation(x, run))
        if not own and any(modules[0].training for modules in self.moded):
            write_back(self.joints, [joint.current() for joint in self.joints], tensors)
        return y

    def trace(self, inputs: list[Tensor], rows: list[Tensor]) -> Any:
        """The branches' outputs, for a graph; dropouts draw for all branches at once.

        Args:
            inputs: one for all branches, or one each.
            rows: the tensors of the joints, joint after joint; buffers are written to.
        """
        own = iter(rows)
        parted = [[next(own) for _ in range(len(joint))] for joint in self.joints]
        pairs = zip(self.joints, parted, strict=True)
        tensors = [joint.stacked(mine) for joint, mine in pairs]
        given = [(x,) for x in inputs] if len(inputs) > 1 else [(inputs[0],)] * self._count
        y = self._output(self._operation(self._input(given), Run(tensors)))
        if any(modules[0].training for modules in self.moded):
            write_back(self.joints, parted, tensors)
        return y

    def _output(self, value: Any) -> Any:
        return value.full()

    def _input(self, given: Given) -> Any:
        first = given[0][0]
        if all(args[0] is first for args in given):
            return Lanes(first.unsqueeze(0), self._count)
        return Lanes(torch.stack([args[0] for args in given]))

    def _noises(self, x: Any) -> list[Tensor]:
        mets = self._meets(x)
        rooms = [met.room() for met in mets]
        parts = [met.parts(room) for met, room in zip(mets, rooms, strict=True)]
        for lane in self._order:
            for met, mine in zip(mets, parts, strict=True):
                draw(met.modules[lane], mine[lane])
        return rooms

    def _meets(self, x: Any) -> list[Met]:
        """What the active dropouts meet, in order: from a run without data."""
        modes = tuple(modules[0].training for modules in self.moded)
        key = (x.tensor.shape, x.tensor.dtype, x.tensor.device, modes)
        if key not in self._met:
            found: list[Met] = []
            self._dry(x, found)
            device = x.tensor.device
            self._met[key] = [replace(met, device=device) for met in found]
        return self._met[key]

    def _dry(self, x: Any, shapes: list[Met]) -> Run:
        with torch.no_grad():
            meta = [
                joint.stacked([torch.empty_like(row, device="meta") for row in joint.current()])
                for joint in self.joints
            ]
            value = x.like(torch.empty_like(x.tensor, device="meta"))
            run = Run(meta, shapes=shapes)
            try:
                self._operation(value, run)
            except Refused:
                raise
            except Exception as error:
                raise Refused(said_by(error)) from error
            return run

    def work(self, given: Given) -> float:
        with FlopCounterMode(display=False) as counter:
            self._dry(self._input(given), [])
        return float(counter.get_total_flops()) / self._count
