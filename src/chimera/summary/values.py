"""What the numbers in a network's tensors look like: histograms, and the neurons of its layers."""

import base64
import math
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.datafree import is_uninitialized
from chimera.summary.unit import weight_and_bias

SAMPLE = 1 << 20
"""The most numbers of a tensor that a histogram looks at: every k-th of them."""
_UNITS = 4096
"""The most neurons of a layer that are described one by one."""
_WEIGHTS = 1 << 16
"""The most weights of a layer that are shown one by one."""
_ALL_WEIGHTS = 1 << 21
"""The most weights of a network that are."""


class Values:
    """Reads the values of ``net``; changes nothing.

    Args:
        net: the network.
        bins: how many bars a histogram has.
    """

    def __init__(self, net: nn.Module, bins: int = 32) -> None:
        self._net, self._bins = net, bins
        self._left = _ALL_WEIGHTS

    def histogram(self, path: str, name: str) -> dict[str, Any] | None:
        """The distribution of a parameter or buffer of the module at ``path``.

        Returns:
            ``low`` and ``high`` (the ends of the bars), ``counts``, ``mean``, ``std``, ``least``,
            ``most``, ``zeros`` (a share), ``strange`` (how many are NaN or infinite), ``every``
            (k, where every k-th number was looked at); None where there are no values.
        """
        tensor = getattr(self._net.get_submodule(path), name, None)
        if not isinstance(tensor, Tensor) or is_uninitialized(tensor) or tensor.is_meta:
            return None
        if tensor.is_complex() or not tensor.numel():
            return None
        numbers = tensor.detach().flatten()
        every = math.ceil(numbers.numel() / SAMPLE)
        numbers = numbers[::every].to("cpu", torch.float64)
        finite = numbers[numbers.isfinite()]
        if not finite.numel():
            return {"strange": numbers.numel(), "every": every}
        least, most = float(finite.min()), float(finite.max())
        low, high = (least, most) if most > least else (least - 0.5, most + 0.5)
        counts = torch.histc(finite, self._bins, low, high)
        return {
            "low": low,
            "high": high,
            "counts": [int(count) for count in counts],
            "mean": float(finite.mean()),
            "std": float(finite.std(correction=0)),
            "least": least,
            "most": most,
            "zeros": float((finite == 0).double().mean()),
            "strange": numbers.numel() - finite.numel(),
            "every": every,
        }

    def units(self, path: str) -> dict[str, Any] | None:
        """The neurons of the layer at ``path``: norm, mean, std and bias of each, weights of small
        layers as bytes (-127 to 127 times ``scale``), in base64; None for other modules."""
        found = weight_and_bias(self._net.get_submodule(path))
        if found is None or len(found[0]) > _UNITS:
            return None
        weight, bias = found
        rows = weight.flatten(1).double()
        if not rows.isfinite().all():
            return None
        made: dict[str, Any] = {
            "count": len(rows),
            "shape": list(weight.shape[1:]),
            "norm": _rounded(rows.norm(dim=1)),
            "mean": _rounded(rows.mean(1)),
            "std": _rounded(rows.std(1, correction=0)),
        }
        if bias is not None:
            made["bias"] = _rounded(bias.double())
        if rows.numel() <= min(_WEIGHTS, self._left):
            self._left -= rows.numel()
            scale = float(rows.abs().max()) / 127 or 1.0
            quantized = (rows / scale).round().to(torch.int8)
            made["scale"] = scale
            made["weights"] = base64.b64encode(quantized.numpy().tobytes()).decode()
        return made


def _rounded(numbers: Tensor) -> list[float]:
    return [float(f"{number:.4g}") for number in numbers.tolist()]
