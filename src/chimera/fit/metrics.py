"""Figures of merit: accuracy, R2, or a function of the user's own.

Legend: N members, B samples of a chunk, T targets of a sample.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float64, Integer, Shaped
from torch import Tensor

from chimera.fit.data import Data, Part
from chimera.fit.losses import aligned
from chimera.fit.mapped import pieces
from chimera.paths.nest import flatten

MetricFunction = Callable[[Any, Tensor], Any]


class Accuracy:
    """The share of samples whose largest score is their class's."""

    name = "accuracy"
    higher_is_better = True

    def of_chunk(
        self, scores_BC: Shaped[Tensor, "*B C"], target_B: Integer[Tensor, "*B"]
    ) -> Integer[Tensor, ""]:
        """One member's hits, []; they add up over chunks."""
        return (scores_BC.argmax(-1) == target_B).sum()

    def figures(self, hits_N: Shaped[Tensor, " N"], part: Part) -> Float64[Tensor, " N"]:
        """Every member's accuracy on a part, float64 [N], from its hits in all of it."""
        return hits_N.double() / len(part)


class R2:
    """The coefficient of determination, 1 - squared error / variation, averaged over the targets.

    As scikit-learn's ``r2_score``: a target that does not vary gives 1 when met exactly, else 0.
    """

    name = "r2"
    higher_is_better = True

    def of_chunk(
        self, output: Shaped[Tensor, "B ..."], target: Shaped[Tensor, "B ..."]
    ) -> Float64[Tensor, " T"]:
        """One member's squared errors, float64 [T]; they add up over chunks."""
        errors = aligned(output, target).double() - target.double()
        return errors.square().sum(0).flatten()

    def figures(self, errors_NT: Shaped[Tensor, "N T"], part: Part) -> Float64[Tensor, " N"]:
        """Every member's R2 on a part, float64 [N], from its squared errors in all of it."""
        mean_T = _sum(piece_BT.sum(0) for piece_BT in _targets(part)) / len(part)
        variation_T = _sum((piece - mean_T).square().sum(0) for piece in _targets(part))
        first_T = part.y[:1].double().reshape(-1)
        varies_T = _sum((piece != first_T).any(0).double() for piece in _targets(part))
        constant_T = varies_T == 0
        share_NT = errors_NT / torch.where(constant_T, 1.0, variation_T)
        return torch.where(constant_T, (errors_NT == 0).double(), 1 - share_NT).mean(1)


class Custom:
    """A user's metric: a function of the output and target of one member on a whole part."""

    higher_is_better = None

    def __init__(self, function: MetricFunction) -> None:
        name = getattr(function, "__name__", type(function).__name__)
        self.name = "metric" if name in ("<lambda>", "partial") else name
        self.function = function

    def of_chunk(self, output: Any, target: Tensor) -> Any:
        """One member's output itself: the function wants the whole part's."""
        return output

    def figures(self, outputs: Sequence[Sequence[Any]], part: Part) -> Tensor:
        """Every member's figure on a part, float64 [N], from its outputs, chunk by chunk."""
        return torch.stack([self._figure(_joined(chunks), part.y[:]) for chunks in outputs])

    def _figure(self, output: Any, target: Tensor) -> Tensor:
        value = self.function(output, target)
        try:
            return torch.as_tensor(value, dtype=torch.float64, device=target.device).reshape(())
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"metric must give one number for a member, got {value!r:.60} "
                f"of type {type(value).__name__}"
            ) from None


Metric = Accuracy | R2 | Custom


def _targets(part: Part) -> Iterator[Tensor]:
    """The targets, some samples at a time, float64 [B, T]."""
    return (piece.double().reshape(len(piece), -1) for piece in pieces(part.y))


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    first, *others = tensors
    for other in others:
        first = first + other
    return first


def _joined(chunks: Sequence[Any]) -> Any:
    """One member's outputs of several chunks as one: tensors are joined along the samples."""
    pieces = [flatten(chunk) for chunk in chunks]
    together = zip(*(leaves for leaves, _ in pieces), strict=True)
    shape = pieces[0][1]
    return shape.rebuild([torch.cat(leaves) for leaves in together])


def task_metric(data: Data) -> Metric:
    """Accuracy for classification, the coefficient of determination for regression."""
    return Accuracy() if data.task == "classification" else R2()
