"""A value that branches of different widths carry side by side, along one axis.

As in the outputs of a ``Parallel`` that concatenates: the features of one lane after those of the
other. What works number by number, or channel by channel, runs on all lanes at once whatever
their widths; nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Beside:
    """The values of all lanes.

    Attributes:
        tensor: of all lanes.
        widths: of each lane along ``axis``; None while all lanes share the one value.
        axis: where they stand side by side.
    """

    tensor: Tensor
    widths: tuple[int, ...] | None = None
    axis: int = 0

    def like(self, tensor: Tensor) -> Beside:
        """Other values of lanes that stand as these do."""
        return replace(self, tensor=tensor)

    def parts(self, lanes: int) -> Sequence[Tensor]:
        """The value of each of so many lanes."""
        if self.widths is None:
            return [self.tensor] * lanes
        return list(self.tensor.split(self.widths, self.axis))

    def along(self, dim: int) -> Tensor | None:
        """All lanes concatenated along ``dim``; None where they stand otherwise."""
        axes = self.tensor.dim()
        fits = self.widths is not None and -axes <= dim < axes and dim % axes == self.axis
        return self.tensor if fits else None
