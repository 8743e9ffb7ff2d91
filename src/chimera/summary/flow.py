"""The flow of the data: which call or operation took what another made.

What runs inside a call that calls no module is that call; operations that only view a tensor in
another way are left out, those who took their results take what they took.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from chimera.summary.watch import Step, Watch

_VIEWS = {
    *("alias", "view", "view_as", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("t", "T", "mT", "transpose", "swapaxes", "movedim", "permute", "expand", "expand_as"),
    *("getitem", "select", "narrow", "chunk", "split", "unbind", "repeat_interleave"),
    *("clone", "contiguous", "detach", "to", "type", "type_as"),
    *("float", "double", "half", "int", "long"),
}


@dataclass(frozen=True)
class Cell:
    """A call of a module, an operation, an input or an output.

    Attributes:
        parent: the index of the call that it is part of, -1 for the root's.
        path: the path of the module; None where it is no call.
        name: of an operation, an input or an output.
        kind: ``"call"``, ``"operation"``, ``"input"`` or ``"output"``.
    """

    parent: int
    path: str | None
    name: str
    kind: str


@dataclass(frozen=True)
class Edge:
    """A tensor on its way.

    Attributes:
        source: the index of the cell that made it.
        target: the index of the cell that took it.
        shape: its shape, as it was taken.
    """

    source: int
    target: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Flow:
    """The flow of the data in one run.

    Attributes:
        cells: in the order in which they ran, a call before what it calls.
        edges: in the order in which tensors were taken.
        complete: whether the whole run is there; a long one is cut.
    """

    cells: tuple[Cell, ...]
    edges: tuple[Edge, ...]
    complete: bool


def flow(watch: Watch) -> Flow:
    """The flow of the data in the run that ``watch`` saw."""
    steps = watch.steps
    calling = {step.parent for step in steps if step.path is not None}
    makers: list[list[int]] = []
    shown: list[int] = []
    edges: dict[Edge, None] = {}
    for index, step in enumerate(steps):
        target = index
        if step.path is None and step.parent not in calling and not _is_end(step):
            target = step.parent
        sources = [source for source, _ in step.sources]
        passes = target == index and _passes(step)
        if passes:
            makers.append(list(_flat(makers[source] for source in sources)))
            continue
        makers.append([target])
        if target == index:
            shown.append(index)
        for source, shape in step.sources:
            for maker in makers[source]:
                if maker != target:
                    edges[Edge(maker, target, shape)] = None
    place = {index: position for position, index in enumerate(shown)}
    place[-1] = -1
    cells = tuple(_cell(steps[index], place) for index in shown)
    moved = (Edge(place[edge.source], place[edge.target], edge.shape) for edge in edges)
    return Flow(cells, tuple(dict.fromkeys(moved)), watch.complete)


def _passes(step: Step) -> bool:
    """Whether the step is an operation that stays out of the picture."""
    if step.path is not None or _is_end(step):
        return False
    return len({source for source, _ in step.sources}) == 1 and step.name in _VIEWS


def _is_end(step: Step) -> bool:
    return step.kind != "operation"


def _cell(step: Step, place: dict[int, int]) -> Cell:
    if step.path is not None:
        return Cell(place[step.parent], step.path, "", "call")
    return Cell(place[step.parent], None, step.name, step.kind)


def _flat(lists: Iterable[list[int]]) -> dict[int, None]:
    return {item: None for items in lists for item in items}
