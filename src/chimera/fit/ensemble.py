"""All members as one: their averaged probabilities, or their averaged outputs."""

import torch
from torch import Tensor, nn

from chimera.fit.data import Data, Part
from chimera.fit.metrics import Metric, chunks


@torch.no_grad()
def ensemble_figure(
    stack: nn.Module, data: Data, metric: Metric, positions: list[int], chunk: int
) -> float | None:
    """The metric of the members at ``positions`` together, on the test part.

    The metric gets the logarithm of the averaged probabilities, the members' softmax, in a
    classification, and the averaged outputs in a regression. None where there is no member, or
    where outputs are no tensors that can be averaged.
    """
    if not positions:
        return None
    gathering = metric.start(1, data.test)
    for piece in chunks(data.test, chunk):
        average = _average(stack(piece.x), positions, piece, data.classes)
        if average is None:
            return None
        gathering.add(average[None], piece.y)
    return float(gathering.figures()[0])


def _average(
    outputs: object, positions: list[int], piece: Part, classes: int | None
) -> Tensor | None:
    """The average over members of one chunk's outputs, [samples, ...]."""
    if not isinstance(outputs, (Tensor, list)):
        return None
    chosen = [outputs[position] for position in positions]
    if not all(isinstance(output, Tensor) for output in chosen):
        return None
    if classes is None:
        if len({output.shape for output in chosen}) > 1:
            return None
        return torch.stack(chosen).mean(0)
    if any(o.dim() != 2 or o.shape[0] != len(piece) or o.shape[1] < classes for o in chosen):
        return None
    shares = [output.softmax(1)[:, :classes] for output in chosen]
    return torch.stack(shares).mean(0).log()
