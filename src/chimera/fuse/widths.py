"""Branches of one structure but for their widths, as one program of lanes side by side.

Branches of equal sizes become neighbours, whatever their order in the block: first layers that
share their input are one product of concatenated weights, later ones a product for each group of
equal sizes, or one for all with padding (``beside_products``); what lies between runs on all
branches at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from chimera.fuse import beside_layers as beside_layers
from chimera.fuse.beside import Beside
from chimera.fuse.lowered import Lowered
from chimera.fuse.part import Given
from chimera.fuse.program import BESIDE, Met, Refused
from chimera.fuse.reached import Reach
from chimera.paths.structure import Fact, Reading
from chimera.paths.walk import join

_WIDTHS = frozenset(("in_features", "out_features", "in_channels", "out_channels", "num_features"))


def but_for_widths(reading: Reading) -> Reading:
    """What was read of a branch, without how wide its layers are."""
    facts = [_any_width(fact) for fact in reading.facts if not _is_width(fact)]
    return Reading(reading.modules, reading.slots, facts, reading.hooks, reading.held)


def _is_width(fact: Fact) -> bool:
    last = fact.path.rpartition(".")[2]
    return fact.name == "value" and (last in _WIDTHS or last.startswith("normalized_shape["))


def _any_width(fact: Fact) -> Fact:
    if fact.name == "shape" and fact.value is not None:
        return Fact(fact.path, fact.name, len(fact.value))
    return fact


def by_size(branches: Sequence[nn.Module]) -> list[int]:
    """The places of ``branches``, those of equal sizes side by side."""
    sizes = [[tuple(t.shape) for t in branch.parameters()] for branch in branches]
    return sorted(range(len(branches)), key=lambda place: sizes[place])


class SideBySide(Lowered):
    """Branches that differ in width.

    Args:
        branches: of one structure but for widths; those of equal sizes side by side.
        order: their places in the order in which they run alone.

    Raises:
        Unlowerable: they have a module for which there is no operation.
    """

    table = BESIDE

    def __init__(self, branches: Sequence[nn.Module], order: Sequence[int]) -> None:
        super().__init__(branches, order)
        self.kind = "widths" if self.kind == "products" else "channels"
        sizes = tuple(tuple(joint.shapes) for joint in self.joints)
        self.structure = (self.kind, self.structure, sizes)
        self._branches = list(branches)

    def refuses(self, given: Given, named: dict[str, Any], *, whole: bool) -> str | None:
        if any(args is not given[0] for args in given):
            return "branches of different widths run as one on one input"
        return super().refuses(given, named, whole=whole)

    def run(self, given: Given, named: dict[str, Any], reach: Reach) -> Any:
        self._meets(self._input(given))  # refuses before anything is changed
        return super().run(given, named, reach)

    def _dry(self, x: Any, shapes: list[Met]) -> Any:
        run = super()._dry(x, shapes)
        self.said = "later layers: " + ", ".join(dict.fromkeys(run.ways)) if run.ways else ""
        return run

    def _input(self, given: Given) -> Beside:
        return Beside(given[0][0])

    def _output(self, value: Beside) -> Any:
        if value.widths is None:
            raise Refused("the branches give what came in")
        return value

    def trace(self, inputs: list[Tensor], rows: list[Tensor]) -> list[Tensor]:
        """The branches' outputs, for a graph; one by one where lanes cannot be side by side."""
        try:
            value = super().trace(inputs, rows)
        except Refused:
            return self._one_by_one(inputs[0], rows)
        return list(value.parts(self._count))

    def _one_by_one(self, x: Tensor, rows: list[Tensor]) -> list[Tensor]:
        own = iter(rows)
        given = [[next(own) for _ in range(len(joint))] for joint in self.joints]
        made: list[Tensor] = []
        for lane, branch in enumerate(self._branches):
            paths = {id(module): path for path, module in branch.named_modules()}
            stand = {}
            for joint, mine in zip(self.joints, given, strict=True):
                module, name = joint.places[lane]
                stand[join(paths[id(module)], name)] = mine[lane]
            made.append(functional_call(branch, stand, (x,)))
        return made
