"""Single neurons: the rows of a layer's weight, one by one."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chimera.build.datafree import is_uninitialized

_LAYERS = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Unit:
    """A neuron of a linear layer, or a filter of a convolution.

    Attributes:
        index: which of the layer's outputs it gives.
        weights: the numbers that it weighs its inputs with, [inputs] or [inputs, *kernel].
        bias: what it adds; None in a layer without a bias.
    """

    index: int
    weights: Tensor
    bias: float | None

    @property
    def norm(self) -> float:
        """The Euclidean norm of the weights."""
        return float(self.weights.double().norm())

    @property
    def mean(self) -> float:
        """The mean of the weights."""
        return float(self.weights.double().mean())

    @property
    def std(self) -> float:
        """The standard deviation of the weights, the population's."""
        return float(self.weights.double().std(correction=0))


def weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The weight [units, ...] and bias [units] of a layer with neurons to show, on the CPU."""
    if not isinstance(module, _LAYERS):
        return None
    own = [tensor for tensor in module.parameters() if tensor is not None]
    if any(is_uninitialized(tensor) or tensor.is_meta for tensor in own):
        return None
    with torch.no_grad():
        weight, bias = module.weight.detach().cpu(), module.bias
        if weight.dim() < 2 or not weight.numel():
            return None
        return weight, None if bias is None else bias.detach().cpu()


def units(module: nn.Module) -> list[Unit] | None:
    """The neurons of ``module``; None if it has none, or no values yet."""
    found = weight_and_bias(module)
    if found is None:
        return None
    weight, bias = found
    return [
        Unit(index, row.clone(), None if bias is None else float(bias[index]))
        for index, row in enumerate(weight)
    ]
