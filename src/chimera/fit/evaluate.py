"""The figures of every member on one part of the data, and of all members together.

The part goes through in chunks, so that memory stays bounded; what is gathered stays on the
device, and nothing is read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws.mode import Key, next_evaluation, overridden
from chimera.fit.data import Data, Part
from chimera.fit.losses import Loss
from chimera.fit.metrics import Custom, Metric
from chimera.stack import Stack
from chimera.stack.each import arguments
from chimera.stack.outputs import Outputs


@dataclass(frozen=True)
class Figures:
    """One part's figures, float64 [members] each; the metric is NaN where the loss is not finite.

    The loss is a mean over the samples of the part.
    """

    loss: Tensor
    metric: Tensor


@torch.no_grad()
def evaluate(
    stack: Stack,
    part: Part,
    loss: Loss,
    metric: Metric,
    chunk: int,
    step: int = 0,
    poll: Callable[[], None] | None = None,
) -> Figures:
    """Every member's loss and metric on a part, ``chunk`` samples at a time.

    The stack runs in the mode it is in. Draws that it makes nevertheless are those of an
    evaluation after ``step`` optimizer steps. ``poll`` is called before each chunk, and may raise.

    Raises:
        TypeError: the loss is no tensor.
    """

    def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, y = args
        output = module(x)
        return loss(output, y), metric.of_chunk(output, y)

    total: Tensor | float = 0.0
    sums: Tensor | float = 0.0
    kept: list[list[Any]] = [[] for _ in range(len(stack))]
    for runs, size in _runs(stack, part, call, chunk, step, poll):
        total = total + _in_order(runs, 0).double() * size
        if isinstance(metric, Custom):
            for run in runs:
                for place, position in enumerate(run.positions):
                    kept[position].append(run.of_member(place)[1])
        else:
            sums = sums + _in_order(runs, 1)
    mean = torch.as_tensor(total) / len(part)
    if isinstance(metric, Custom):
        figures = metric.figures(kept, part)
    else:
        figures = metric.figures(torch.as_tensor(sums), part)
    return Figures(mean, figures.where(mean.isfinite(), torch.nan))


@torch.no_grad()
def ensemble_figure(
    stack: Stack,
    data: Data,
    metric: Metric,
    positions: list[int],
    members: int,
    chunk: int,
    step: int = 0,
    poll: Callable[[], None] | None = None,
    total: Callable[[Tensor | None], Tensor | None] = lambda mine: mine,
) -> float | None:
    """The metric of members together, on the test part.

    The metric gets the logarithm of the averaged probabilities, the members' softmax, in a
    classification, and the averaged outputs in a regression. None where there is no member, or
    where the outputs are no tensors that can be averaged.

    Args:
        stack: the members that are here.
        data: the samples.
        metric: the figure of merit.
        positions: of those in ``stack`` that are meant.
        members: how many are meant in all.
        chunk: how many samples go through at once.
        step: how many steps the optimizer took.
        poll: called before each chunk, and may raise.
        total: adds what other ranks have to the sum over the members here.
    """
    if not members:
        return None
    whole = total(_summed(stack, data, positions, chunk, step, poll))
    if whole is None:
        return None
    average = whole / members
    if data.classes is not None:
        average = average.log()
    statistics = [
        metric.of_chunk(average[start : start + chunk], data.test.y[start : start + chunk])
        for start in range(0, len(data.test), chunk)
    ]
    if isinstance(metric, Custom):
        return float(metric.figures([statistics], data.test)[0])
    return float(metric.figures(torch.stack(statistics).sum(0)[None], data.test)[0])


def _summed(
    stack: Stack,
    data: Data,
    positions: list[int],
    chunk: int,
    step: int,
    poll: Callable[[], None] | None,
) -> Tensor | None:
    """The sum over members of what they say of the test part ``[samples, ...]``."""

    def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return module(args[0])

    wanted = frozenset(positions)
    sums = []
    for runs, size in _runs(stack, data.test, call, chunk, step, poll):
        one = _sum(runs, wanted, size, data.classes)
        if one is None:
            return None
        sums.append(one)
    if len({one.shape[1:] for one in sums}) > 1:
        return None
    return torch.cat(sums)


def _runs(
    stack: Stack,
    part: Part,
    call: Any,
    chunk: int,
    step: int,
    poll: Callable[[], None] | None,
) -> Iterator[tuple[list[Outputs], int]]:
    """What ``call`` gives for each chunk of a part, and how many samples that has."""
    for count, start in enumerate(range(0, len(part), chunk)):
        if poll is not None:
            poll()
        x, y = part.x[start : start + chunk], part.y[start : start + chunk]
        key = overridden(next_evaluation(Key(stack.seed, step), count))
        yield stack.run(call, arguments((x, y), {}, len(stack)), key), len(x)


def _in_order(runs: list[Outputs], leaf: int) -> Tensor:
    """A tensor that every member gave, [members, ...]."""
    tensors = [run.leaves[leaf] for run in runs]
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"loss must give a tensor for each member, got {tensor!r:.60}")
    positions = [position for run in runs for position in run.positions]
    together = torch.cat(tensors)
    if positions == sorted(positions):
        return together
    order = torch.tensor(positions, device=together.device).argsort()
    return together[order]


def _sum(
    runs: list[Outputs], wanted: frozenset[int], samples: int, classes: int | None
) -> Tensor | None:
    """The sum over the wanted members of one chunk's outputs, [samples, ...]."""
    sums = []
    for run in runs:
        if run.shape.kind is not None or not run.stacked[0]:
            return None
        places = [place for place, p in enumerate(run.positions) if p in wanted]
        chosen = run.leaves[0][torch.tensor(places, dtype=torch.int64)]
        if classes is not None:
            if chosen.dim() != 3 or chosen.shape[1] != samples or chosen.shape[2] < classes:
                return None
            chosen = chosen.softmax(2)[:, :, :classes]
        if chosen.shape[1:2] != (samples,):
            return None
        sums.append(chosen.sum(0))
    if len({total.shape for total in sums}) > 1:
        return None
    return torch.stack(sums).sum(0)
