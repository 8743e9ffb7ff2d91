"""Members run as one: the template under ``torch.vmap``, with every stacked tensor in its place.

A run leaves the group as it was; what the call wrote into its module comes back as ``Ran`` for
the caller to keep or drop, except buffers changed in place, which a ``Shadow`` can put back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from chimera.decide.split import Decisions
from chimera.decide.watch import Sentinel, Watch
from chimera.draws.mode import Drawing, Key
from chimera.draws.outside import none_outside
from chimera.draws.recompute import refused, restoring
from chimera.paths.shared import Links
from chimera.paths.slots import Exchange
from chimera.paths.version import unchanged, version
from chimera.stack.absent import rows_at
from chimera.stack.each import Arguments, index_of
from chimera.stack.functorch import over_members
from chimera.stack.group import Group
from chimera.stack.leaves import Leaves, Taken
from chimera.stack.outputs import Outputs
from chimera.stack.outside import Outside
from chimera.stack.rules import FUNCTIONS
from chimera.stack.rules.autocast import Autocast, autocast_of
from chimera.stack.rules.misbatched import goes_wrong
from chimera.stack.slow_attention import SLOW_ATTENTION
from chimera.stack.witness import Witness

Call = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(slots=True)
class Ran:
    """One run of some members of a group.

    Attributes:
        output: what they gave; its positions are places in the group.
        draws: how many random operations it made.
        slots: new stacked tensors of slots that the call assigned.
        buffers: by (module index, name) what it registered as a buffer where none stood, or None
            where one stood; and whether the buffer is persistent.
        attributes: new values of attributes, by (module index, name).
        links: the containers among them that stand in several places.
        parameters: by slot, the rows of parameters that the call changed in place in a copy.
        replaced: how many functions of torch ran as ``FUNCTIONS`` has them.
        mended: whether torch would have computed one of them wrongly.
        cast: whether autocast was on.
        guarded: whether an operation ran where the module catches errors.
    """

    output: Outputs
    draws: int = 0
    slots: dict[int, Tensor] = field(default_factory=dict)
    buffers: dict[tuple[int, str], tuple[Outputs, bool]] = field(default_factory=dict)
    attributes: dict[tuple[int, str], Outputs] = field(default_factory=dict)
    links: Links = ()
    parameters: dict[int, Tensor] = field(default_factory=dict)
    replaced: int = 0
    mended: bool = False
    cast: bool = False
    guarded: bool = False


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
    wary: bool = False,
    strange: bool = False,
    casts: bool = False,
    guarded: bool = False,
    tensors: Sequence[Tensor] | None = None,
    span: range | None = None,
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
        wary: refuse what would go wrong in silence; for runs that may take a new way.
        strange: put back what the run leaves outside of the module; for the first of its kind.
        casts: make the casts of autocast where it is on.
        guarded: refuse a run in which the module catches an error.
        tensors: stacked ones to stand for the group's own, one a slot.
        span: the members, side by side, that ``tensors`` and ``arguments`` are of; None for all.

    Raises:
        Differ: the members run differ in a condition.
        Undrawable: a draw that has no member axis.
        DrawnOutside: a draw that torch does not know of.
        Swallowed: the module caught an error of what ran as one.
        Changes: the module changed what is outside of it; that is put back.
        Escaped: the module keeps tensors outside of itself; they are taken out there.
        Held: they cannot be taken out.
        Exception: whatever the call raises, or vmap where it cannot batch.
    """
    index = None if places is None else index_of(places, group.device)
    tensors = group.running(tensors, span)
    if index is not None:
        tensors = [rows_at(tensor, index) for tensor in tensors]
        group.partial = True
    elif group.partial and torch.is_grad_enabled():
        tensors = group.reached(tensors)
    versions = [version(tensor) for tensor in tensors]
    arguments = arguments.take(index)
    exchange = _exchange(group, ruled, casts)
    numbers = group.numbers.tensors(group.device)
    if index is not None:
        numbers = [tensor.index_select(0, index) for tensor in numbers]
    if span is not None:
        numbers = [tensor[span.start : span.stop] for tensor in numbers]
    mine = list(span or range(len(group))) if places is None else list(places)
    kept: dict[str, Any] = {}
    own = [i for i, flag in enumerate(arguments.own) if flag]

    def member(*flat: Any) -> Any:
        if witness is not None:
            witness.note(flat)
        slots, rest = flat[: len(tensors)], flat[len(tensors) :]
        settings, given = rest[: len(numbers)], rest[len(numbers) :]
        leaves = list(arguments.leaves)
        for i, leaf in zip(own, given, strict=True):
            leaves[i] = leaf
        if not settings:
            return run_one(slots, leaves)
        with group.numbers.standing(settings):
            return run_one(slots, leaves)

    def run_one(slots: Any, leaves: list[Any]) -> tuple[Tensor, ...]:
        sorter = Leaves(group)
        exchange.put(slots)
        try:
            kept["output"] = sorter.take(call(group.template, *arguments.rebuild(leaves)))
            written = exchange.written()
            kept["slots"] = {i: sorter.take(new) for i, new in written.slots.items()}
            kept["buffers"] = {
                where: (sorter.take(value), lasting)
                for where, (value, lasting) in written.buffers.items()
            }
            kept["links"] = written.links
            kept["attributes"] = {
                where: sorter.take(value, objects=True)
                for where, value in written.attributes.items()
            }
        finally:
            exchange.take_back()
        return tuple(sorter.tensors) or (torch.zeros(()),)

    witness = None
    if wary or guarded:
        outside = Outside(module for _, module in group.reading.modules) if strange else None
        witness = Witness(run_batched.__code__.co_filename, thorough=wary, outside=outside)
    drawing = None if key is None else Drawing(key, members, several=True)
    sentinel: Sentinel | Watch | None = Sentinel(group.device.type, goes_wrong) if wary else None
    watch = None
    if decisions is not None:
        sentinel = watch = Watch(decisions, FUNCTIONS if ruled else {}, goes_wrong)
    given = [arguments.leaves[i] for i in own]
    try:
        with ExitStack() as modes:
            if decisions is not None or sentinel is not None or drawing is not None:
                modes.enter_context(_uncaught(decisions, sentinel, drawing))
            if drawing is not None:
                modes.enter_context(drawing)
            if sentinel is not None:
                modes.enter_context(sentinel)
            if casts:
                autocast = modes.enter_context(Autocast(group.device.type))
            if wary:
                modes.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("error", "There is a performance drop")
                modes.enter_context(restoring(refused))
            modes.enter_context(SLOW_ATTENTION)
            modes.enter_context(none_outside())
            if witness is not None:
                modes.enter_context(witness)
            flat = over_members(
                member,
                [*tensors, *numbers, *given],
                len(mine),
                randomness="error" if key is None else "different",
                public=wary,
            )
            if witness is not None:
                witness.completed()
    except Exception as error:
        if witness is not None:
            witness.ended(error)
        raise
    if witness is not None:
        witness.ended(None)

    def outputs(taken: Taken) -> Outputs:
        leaves, stacked, shape = taken
        found = [flat[x] if flag else x for x, flag in zip(leaves, stacked, strict=True)]
        return Outputs(mine, found, shape, stacked)

    rows: dict[int, Tensor] = {}

    def held(taken: Taken) -> Outputs:
        """As ``outputs``, of what members keep: every row in memory of its own."""
        leaves, stacked, shape = taken
        found = [
            rows.setdefault(x, _rows_apart(flat[x])) if flag else x
            for x, flag in zip(leaves, stacked, strict=True)
        ]
        return Outputs(mine, found, shape, stacked)

    slots = {i: held(taken).leaves[0] for i, taken in kept["slots"].items()}
    stacked_tensors = group.tensors()
    if index is not None:
        slots = {**_copies(stacked_tensors, tensors), **slots}
    buffers = {where: (held(taken), flag) for where, (taken, flag) in kept["buffers"].items()}
    attributes = {where: held(taken) for where, taken in kept["attributes"].items()}
    draws = drawing.calls if drawing is not None else 0
    parameters = {
        i: tensor
        for i, (tensor, stacked) in enumerate(zip(tensors, stacked_tensors, strict=True))
        if tensor is not stacked and group.trained[i] and not unchanged(tensor, versions[i])
    }
    return Ran(
        outputs(kept["output"]),
        draws,
        slots,
        buffers,
        attributes,
        kept["links"],
        parameters,
        replaced=0 if watch is None else watch.replaced,
        mended=watch is not None and watch.mended,
        cast=casts and autocast.used,
        guarded=witness is not None and witness.guarded,
    )


def _exchange(group: Group, ruled: bool, casts: bool) -> Exchange:
    if not ruled:
        return group.unruled
    return group.casting if casts and autocast_of(group.device) else group.ruled


@contextmanager
def _uncaught(*watching: Decisions | Sentinel | Watch | Drawing | None) -> Iterator[None]:
    """Raise what was refused inside, whether or not the module caught it."""
    try:
        yield
    finally:
        for one in watching:
            if one is not None and one.refused is not None:
                raise one.refused


def _copies(whole: Iterable[Tensor], tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """The buffers of a part of the members, which the run may have changed: they were copies."""
    return {
        index: tensor
        for index, (tensor, stacked) in enumerate(zip(tensors, whole, strict=True))
        if not isinstance(stacked, nn.Parameter)
    }


def _rows_apart(tensor: Tensor) -> Tensor:
    """``tensor`` ``[members, ...]``; a copy where it is one row that stands for all."""
    if tensor.layout is torch.strided and tensor.shape[0] > 1 and tensor.stride(0) == 0:
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor
