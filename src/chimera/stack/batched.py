"""Members run as one: the template under ``torch.vmap``, with every stacked tensor in its place.

A run leaves the group as it was; what the call wrote into its module comes back as ``Ran`` for
the caller to keep or drop, except buffers changed in place, which ``Shadow`` can put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from chimera.decide.split import Decisions
from chimera.decide.watch import Watch
from chimera.draws.mode import Drawing, Key
from chimera.paths.nest import Shape, flatten
from chimera.stack.each import Arguments, index_of
from chimera.stack.group import Group
from chimera.stack.outputs import Outputs

Call = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(slots=True)
class Ran:
    """One run of some members of a group.

    Attributes:
        output: what they gave; its positions are places in the group.
        draws: how many random operations it made.
        slots: new stacked tensors of slots that the call assigned.
        attributes: new values of attributes, by (module index, name).
    """

    output: Outputs
    draws: int = 0
    slots: dict[int, Tensor] = field(default_factory=dict)
    attributes: dict[tuple[int, str], Outputs] = field(default_factory=dict)


class Shadow:
    """Copies of a group's buffers, to be put back when a run does not count.

    All of them: torch's batch norm writes its statistics without a trace in the version counter.
    """

    def __init__(self, group: Group) -> None:
        self._tensors = [t for t in group.tensors() if not isinstance(t, nn.Parameter)]
        self._copies = [tensor.detach().clone() for tensor in self._tensors]

    def restore(self) -> None:
        """Put back what the buffers held."""
        with torch.no_grad():
            for tensor, copy in zip(self._tensors, self._copies, strict=True):
                tensor.copy_(copy)


class _Leaves:
    """Sorts a call's results: tensors go out through vmap, other values beside it."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def take(self, value: Any) -> tuple[list[Any], list[bool], Shape]:
        leaves, shape = flatten(value)
        stacked = [isinstance(leaf, Tensor) for leaf in leaves]
        places: list[Any] = []
        for leaf, is_tensor in zip(leaves, stacked, strict=True):
            places.append(len(self.tensors) if is_tensor else leaf)
            if is_tensor:
                self.tensors.append(leaf)
        return places, stacked, shape


def run_batched(
    group: Group,
    call: Call,
    arguments: Arguments,
    *,
    places: Sequence[int] | None = None,
    key: Key | None = None,
    members: Sequence[int] = (),
    decisions: Decisions | None = None,
    ruled: bool = True,
) -> Ran:
    """Run members of a group as one.

    Args:
        group: the group.
        call: what to do with one member, its positional and its keyword arguments.
        arguments: of the whole group.
        places: the members of the group to run; None runs all.
        key: of the draws; None makes a draw an error.
        members: the ids of the members that run, for their draws.
        decisions: answers conditions on data; None makes a condition an error.
        ruled: whether stack rules run the layers that have one.

    Raises:
        Differ: the members run differ in a condition.
        Undrawable: a draw that has no member axis.
        Exception: whatever the call raises, or vmap where it cannot batch.
    """
    index = None if places is None else index_of(places, group.device)
    tensors = group.running()
    if index is not None:
        tensors = [tensor.index_select(0, index) for tensor in tensors]
    arguments = arguments.take(index)
    exchange = group.ruled if ruled else group.plain
    mine = list(range(len(group))) if places is None else list(places)
    kept: dict[str, Any] = {}
    own = [i for i, flag in enumerate(arguments.own) if flag]

    def member(*flat: Any) -> Any:
        slots, given = flat[: len(tensors)], flat[len(tensors) :]
        leaves = list(arguments.leaves)
        for i, leaf in zip(own, given, strict=True):
            leaves[i] = leaf
        sorter = _Leaves()
        exchange.put(slots)
        try:
            kept["output"] = sorter.take(call(group.template, *arguments.rebuild(leaves)))
            written = exchange.written()
            kept["slots"] = {i: sorter.take(new) for i, new in written.slots.items()}
            kept["attributes"] = {
                where: sorter.take(value) for where, value in written.attributes.items()
            }
        finally:
            exchange.take_back()
        return tuple(sorter.tensors) or (torch.zeros(()),)

    drawing = None if key is None else Drawing(key, members, several=True)
    with ExitStack() as modes:
        if drawing is not None:
            modes.enter_context(drawing)
        if decisions is not None:
            modes.enter_context(Watch(decisions))
        batched = torch.vmap(member, randomness="error" if key is None else "different")
        flat = batched(*tensors, *(arguments.leaves[i] for i in own))

    def outputs(taken: tuple[list[Any], list[bool], Shape]) -> Outputs:
        leaves, stacked, shape = taken
        found = [flat[x] if flag else x for x, flag in zip(leaves, stacked, strict=True)]
        return Outputs(mine, found, shape, stacked)

    slots = {i: outputs(taken).leaves[0] for i, taken in kept["slots"].items()}
    if index is not None:
        slots = {**_copies(group, tensors), **slots}
    attributes = {where: outputs(taken) for where, taken in kept["attributes"].items()}
    draws = drawing.calls if drawing is not None else 0
    return Ran(outputs(kept["output"]), draws, slots, attributes)


def _copies(group: Group, tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """The buffers of a part of the members, which the run may have changed: they were copies."""
    return {
        index: tensor
        for index, (tensor, stacked) in enumerate(zip(tensors, group.tensors(), strict=True))
        if not isinstance(stacked, nn.Parameter)
    }
