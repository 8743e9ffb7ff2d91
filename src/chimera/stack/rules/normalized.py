"""Functions of normalized weights that torch cannot batch: what weight and spectral norm call.

``torch._weight_norm`` is reached here alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from chimera.stack.rules.functions import replaces


@replaces(torch._weight_norm)
def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``v`` with the norms ``g`` along every axis but ``dim``; -1 means over all of it."""
    if dim == -1:
        whole: Tensor = g / torch.linalg.vector_norm(v)
        return v * whole
    axes = [axis for axis in range(v.dim()) if axis != dim]
    norm = torch.linalg.vector_norm(v, 2, axes, keepdim=True) if axes else v.abs()
    return v * (g / norm)


@replaces(F.normalize)
def normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """``F.normalize``, which torch cannot batch when it is told where to write."""
    normalized = F.normalize(input, p, dim, eps)
    return normalized if out is None else out.copy_(normalized)
