"""The figures of every member on one part of the data: its loss and its metric.

Legend: N members, B samples of a chunk, C classes. Sums stay on the device; nothing is read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chimera.fit.data import Data, Part
from chimera.fit.losses import TASK_LOSSES, Loss, aligned
from chimera.paths.nest import flatten

MetricFunction = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Figures:
    """One part's figures, float64 [members] each; the metric is NaN where the loss is not finite.

    The loss is a mean over the samples of the part.
    """

    loss: Tensor
    metric: Tensor


class Metric(Protocol):
    """A figure of merit of one member, gathered chunk by chunk for all of them."""

    name: str
    higher_is_better: bool | None

    def start(self, members: int, part: Part) -> "Gathering":
        """An empty gathering for one part."""
        ...


class Gathering(Protocol):
    """A metric on its way through one part."""

    def add(self, outputs: Any, target: Tensor) -> None:
        """Takes in one chunk: outputs [N, B, ...], or a list of N of [B, ...]; target [B, ...]."""
        ...

    def figures(self) -> Tensor:
        """The metric, [N]."""
        ...


class Accuracy:
    """The share of samples whose largest score is their class's."""

    name = "accuracy"
    higher_is_better: bool | None = True

    def start(self, members: int, part: Part) -> Gathering:
        return _Correct(members, part)


class _Correct:
    def __init__(self, members: int, part: Part) -> None:
        self.samples = len(part)
        self.correct = torch.zeros(members, dtype=torch.float64, device=part.y.device)

    def add(self, outputs: Any, target: Tensor) -> None:
        if isinstance(outputs, Tensor):
            self.correct += (outputs.argmax(-1) == target).sum(1)
        else:
            hits = [(output.argmax(-1) == target).sum() for output in outputs]
            self.correct += torch.stack(hits)

    def figures(self) -> Tensor:
        return self.correct / self.samples


class R2:
    """The coefficient of determination, 1 - squared error / variance, averaged over the targets.

    As scikit-learn's ``r2_score``: a target that does not vary gives 1 when met exactly, else 0.
    """

    name = "r2"
    higher_is_better: bool | None = True

    def start(self, members: int, part: Part) -> Gathering:
        return _SquaredErrors(members, part)


class _SquaredErrors:
    def __init__(self, members: int, part: Part) -> None:
        target_BT = part.y.to(torch.float64).flatten(1) if part.y.dim() > 1 else _column(part.y)
        self.variation_T = (target_BT - target_BT.mean(0)).square().sum(0)
        self.errors_NT = target_BT.new_zeros(members, target_BT.shape[1])

    def add(self, outputs: Any, target: Tensor) -> None:
        for member, output in enumerate(outputs):
            errors = (aligned(output, target).double() - target.double()).square()
            self.errors_NT[member] += errors.reshape(len(target), -1).sum(0)

    def figures(self) -> Tensor:
        constant_T = self.variation_T == 0
        share_NT = self.errors_NT / torch.where(constant_T, 1.0, self.variation_T)
        r2_NT = torch.where(constant_T, (self.errors_NT == 0).double(), 1 - share_NT)
        return r2_NT.mean(1)


def _column(target: Tensor) -> Tensor:
    return target.to(torch.float64)[:, None]


class Custom:
    """A user's metric: a function of the output and target of one member on a whole part."""

    higher_is_better: bool | None = None

    def __init__(self, function: MetricFunction) -> None:
        name = getattr(function, "__name__", "metric")
        self.name: str = "metric" if name == "<lambda>" else name
        self.function = function

    def start(self, members: int, part: Part) -> Gathering:
        return _Kept(self.function, members)


class _Kept:
    def __init__(self, function: MetricFunction, members: int) -> None:
        self.function = function
        self.outputs: list[list[Any]] = [[] for _ in range(members)]
        self.targets: list[Tensor] = []

    def add(self, outputs: Any, target: Tensor) -> None:
        for kept, output in zip(self.outputs, each_member(outputs, len(self.outputs)), strict=True):
            kept.append(output)
        self.targets.append(target)

    def figures(self) -> Tensor:
        target = torch.cat(self.targets)
        values = [self.function(joined(chunks), target) for chunks in self.outputs]
        return torch.stack(
            [torch.as_tensor(v, dtype=torch.float64, device=target.device) for v in values]
        )


def each_member(outputs: Any, members: int) -> Iterator[Any]:
    """The output of each member of what a Stack returned, members first or a list of them."""
    if isinstance(outputs, list):
        return iter(outputs)
    leaves, shape = flatten(outputs)
    return (shape.rebuild([leaf[member] for leaf in leaves]) for member in range(members))


def joined(chunks: list[Any]) -> Any:
    """One member's outputs of several chunks as one: tensors are joined along the samples."""
    pieces = [flatten(chunk) for chunk in chunks]
    shape = pieces[0][1]
    together = zip(*(leaves for leaves, _ in pieces), strict=True)
    return shape.rebuild([torch.cat(leaves) for leaves in together])


def losses_of(loss: Loss, outputs: Any, target: Tensor, members: int) -> Tensor:
    """Each member's loss of one chunk, [N]."""
    if isinstance(outputs, Tensor) and loss in TASK_LOSSES:
        return torch.vmap(loss, in_dims=(0, None))(outputs, target)
    return torch.stack([loss(output, target) for output in each_member(outputs, members)])


def task_metric(data: Data) -> Metric:
    """Accuracy for classification, the coefficient of determination for regression."""
    return Accuracy() if data.task == "classification" else R2()


def chunks(part: Part, size: int) -> Iterator[Part]:
    """The part's samples, ``size`` at a time."""
    for start in range(0, len(part), size):
        yield Part(part.x[start : start + size], part.y[start : start + size])


@torch.no_grad()
def evaluate(stack: nn.Module, part: Part, loss: Loss, metric: Metric, chunk: int) -> Figures:
    """Every member's loss and metric on a part, ``chunk`` samples at a time.

    The stack runs in the mode it is in; ``fit`` sets it to evaluation.
    """
    members = len(stack)  # type: ignore[arg-type]
    gathering = metric.start(members, part)
    total = torch.zeros(members, dtype=torch.float64, device=part.x.device)
    for piece in chunks(part, chunk):
        outputs = stack(piece.x)
        total += losses_of(loss, outputs, piece.y, members).double() * len(piece)
        gathering.add(outputs, piece.y)
    mean = total / len(part)
    return Figures(mean, gathering.figures().where(mean.isfinite(), torch.nan))
