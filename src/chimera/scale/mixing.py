"""Networks whose rows depend on each other, refused by name.

A network is spread by rows only if the parts of a batch, computed apart, are the whole: an output
row depends on its own input row alone. Layers that break this are known by class; the rest is found
by running a few rows: with others changed, apart, and with the questions watched that Python asks
about data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # what all batch norms are

from chimera.blocks import Cond, While
from chimera.scale.attributes import Kept
from chimera.scale.record import Recording, outputs_of, record
from chimera.scale.rows import Batch

ROWS = 3
"""The rows that are run to see whether they mix."""

_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_SYNC = (
    "use sync=True on GPUs, where torch has nn.SyncBatchNorm, or a norm that takes each row by "
    "itself (GroupNorm, LayerNorm)"
)


@dataclass(frozen=True)
class Mixed:
    """Where rows depend on each other, why, and what to do."""

    path: str
    why: str
    mend: str

    def __str__(self) -> str:
        return (
            f"distribute: the rows of a batch depend on each other at {self.path or '(root)'!r}: "
            f"{self.why}. The parts that devices compute would not be the whole; {self.mend}."
        )


Suspects = tuple[tuple[str, nn.Module], ...]


def suspects(net: nn.Module) -> Suspects:
    """The modules, with their paths, of classes that may mix rows."""
    kinds = (While, Cond, _BatchNorm, *_INSTANCE)
    return tuple(
        (path, module)
        for path, module in net.named_modules()
        if isinstance(module, kinds) and not isinstance(module, nn.SyncBatchNorm)
    )


def known(suspected: Suspects) -> Mixed | None:
    """The first module that mixes rows in its present mode, as its class tells."""
    for path, module in suspected:
        kind = type(module).__name__
        if isinstance(module, (While, Cond)):
            why = f"{kind} asks its condition of the whole batch"
            return Mixed(path, why, "choose by rows (torch.where) instead")
        assert isinstance(
            module, _BatchNorm | nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
        )
        if isinstance(module, _INSTANCE):
            if module.training and module.track_running_stats:
                why = f"{kind} keeps running statistics of the whole batch"
                return Mixed(path, why, "use track_running_stats=False")
        elif module.training or (module.running_mean is None and module.running_var is None):
            return Mixed(path, f"{kind} takes statistics of the whole batch", _SYNC)
    return None


@dataclass(frozen=True)
class Probed:
    """What a few rows show: where they mix, and which attributes keep what depends on them."""

    mixed: Mixed | None
    kept: tuple[Kept, ...] = ()


def probe(net: nn.Module, batch: Batch) -> Probed:
    """What shows when a few of ``batch`` run; ``net`` is left as it was.

    Args:
        net: the network, in the mode that is asked about.
        batch: two rows or more.

    Raises:
        Exception: what the network raises on these rows.
    """
    few = batch[: min(ROWS, batch.rows)]
    one = record(net, few)
    if one.asked is not None:
        why = f"Python asks about data there ({one.asked.question}), which is of the whole batch"
        mend = "compute by rows (torch.where) instead of by a condition"
        return Probed(Mixed(one.asked.path, why, mend))
    others = []
    for kept in (few.rows - 1, 0):
        other = record(net, _changed(batch, few, kept))
        found = _differs(one, other, slice(kept, kept + 1), slice(kept, kept + 1), 1e-5)
        if found is not None:
            why = "an output row changes when only other input rows do"
            return Probed(Mixed(found, why, _axis()))
        if found_buffer := _written(one, other):
            why = "what it writes into that buffer depends on the batch"
            return Probed(Mixed(found_buffer, why, "keep no statistics of batches in buffers"))
        others.append(other)
    return _apart(net, few, one, others)


def _axis() -> str:
    return "compute each row by itself (batch_first=True, dim=-1), with the batch on the first axis"


def _apart(net: nn.Module, few: Batch, one: Recording, changed: list[Recording]) -> Probed:
    """Where the first row alone, or the others alone, are not what they are together."""
    first, others = slice(0, 1), slice(1, few.rows)
    with _modes_kept(net):
        alone = _alone(net, few[first])
        if isinstance(alone, Mixed):
            return Probed(alone)
        kept = _kept(one, [*changed, alone])
        counted = _written(one, alone)
        if counted is not None:
            why = "what it writes into that buffer depends on the number of rows"
            mend = "count outside of the network what is of the whole batch"
            return Probed(Mixed(counted, why, mend))
        if one.drew:  # draws differ with the number of rows
            net.eval()
            one, alone = record(net, few), _alone(net, few[first])
        for part, run in ((first, alone), (others, _alone(net, few[others]))):
            if isinstance(run, Mixed):
                return Probed(run)
            found = _differs(one, run, part, slice(None), 1e-3)
            if found is not None:
                return Probed(Mixed(found, "rows computed apart are other rows", _axis()))
    return Probed(None, kept)


def _kept(one: Recording, others: list[Recording]) -> tuple[Kept, ...]:
    """The attributes that a run fills with what depends on which rows ran, or on how many."""
    found = []
    for name, tensor in one.attributes.items():
        there = [other.attributes.get(name) for other in others]
        shapes = {None if t is None else t.shape for t in there}
        if shapes != {tensor.shape} or not all(
            _close(tensor, t, 1e-6) for t in there if t is not None
        ):
            found.append(Kept(name, shapes != {tensor.shape}))
    return tuple(found)


def _alone(net: nn.Module, part: Batch) -> Recording | Mixed:
    """A run of a part of a batch; that it does not run is an answer."""
    try:
        return record(net, part)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        why = f"it does not run on a part of a batch ({type(error).__name__}: {error!s:.200})"
        return Mixed("", why, "write no size of a batch into it")


@contextmanager
def _modes_kept(net: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _changed(batch: Batch, few: Batch, kept: int) -> Batch:
    """The few rows with every row but ``kept`` another."""
    later = torch.arange(few.rows) + 1

    def change(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point() or leaf.is_complex():
            flat = leaf.reshape(leaf.shape[0], -1)
            other = (flat.roll(1, 1) * 1.5 + 0.25).reshape(leaf.shape)
        else:
            other = leaf[later.to(leaf.device) % leaf.shape[0]]
        other[kept] = leaf[kept]
        return other

    return few.map(change, few.rows)


def _differs(one: Recording, other: Recording, a: slice, b: slice, far: float) -> str | None:
    """The path of the innermost module that makes rows ``a`` of one run not rows ``b`` of the
    other, though its own inputs have them alike; None where the outputs agree."""

    def alike(pairs: list[tuple[Tensor, Tensor]]) -> bool:
        return all(_close(x[a], y[b], far) for x, y in pairs)

    ends = _paired(one.outputs, other.outputs, one.rows, other.rows)
    if ends is not None and alike(ends):
        return None
    if [visit.path for visit in one.visits] == [visit.path for visit in other.visits]:
        for x, y in zip(one.visits, other.visits, strict=True):
            inputs, outputs = (
                _paired(getattr(x, kind), getattr(y, kind), one.rows, other.rows)
                for kind in ("inputs", "outputs")
            )
            if inputs and alike(inputs) and outputs and not alike(outputs):
                return x.path
    return ""


def _paired(
    one: list[Tensor], other: list[Tensor], rows: int, others: int
) -> list[tuple[Tensor, Tensor]] | None:
    """The tensors with rows of both; None where they do not belong together."""
    if len(one) != len(other):
        return None
    pairs = [(x, y) for x, y in zip(one, other, strict=True) if x.dim() and x.shape[0] == rows]
    fits = all(y.dim() == x.dim() and y.shape[0] == others for x, y in pairs)
    return pairs if fits and all(x.shape[1:] == y.shape[1:] for x, y in pairs) else None


def _close(x: Tensor, y: Tensor, far: float) -> bool:
    if not (x.is_floating_point() or x.is_complex()):
        return torch.equal(x, y)
    if not bool(x.isfinite().all() and y.isfinite().all()):
        return True
    scale = x.abs().amax().clamp(min=1e-3) if x.numel() else 1
    return bool(((x - y).abs() <= far * scale).all())


def _written(one: Recording, other: Recording) -> str | None:
    pairs = ((name, b, other.buffers[name]) for name, b in one.buffers.items())
    return next(
        (name for name, b, c in pairs if b.shape != c.shape or not _close(b, c, 1e-6)), None
    )


def probe_sizes(net: nn.Module, batch: Batch, parts: Sequence[int]) -> Mixed | None:
    """Whether ``batch`` gives other rows when it is computed in parts; ``net`` is left as it was.

    A network that looks at how many rows there are does not show it on a few.

    Args:
        net: the network, in the mode that is asked about.
        batch: the rows, as many as will run.
        parts: how many of them run together, one part after the other.
    """
    with _modes_kept(net):
        one, drew = outputs_of(net, batch)
        if drew:
            net.eval()
            one, _ = outputs_of(net, batch)
        start = 0
        for count in parts:
            part = slice(start, start := start + count)
            other, _ = outputs_of(net, batch[part])
            pairs = _paired(one, other, batch.rows, count)
            if pairs is not None and not all(_close(x[part], y, 1e-3) for x, y in pairs):
                why = f"of {batch.rows} rows, {count} computed apart are other rows"
                return Mixed("", why, _axis())
    return None


def refuse(found: Mixed | None) -> None:
    """Raise ValueError for what was found, on every rank if on any."""
    said = [None] * dist.get_world_size()
    dist.all_gather_object(said, None if found is None else str(found))
    text = next((text for text in said if text is not None), None)
    if text is not None:
        raise ValueError(text)
