"""Residual: what comes in, plus what a body makes of it.

Contract: no state of its own; the input is never changed, neither by the sum nor by a body that
works in place (see ``inplace.py``).
"""

from typing import Any

from torch import Tensor, nn

from chimera.blocks.checked import checked, described
from chimera.blocks.inplace import Touch, copied, may_change, promise


class Residual(nn.Module):
    """``x + body(x)``, or ``projection(x) + body(x)`` (He et al. 2015, arXiv:1512.03385).

    Args:
        body: a module whose output has the shape of ``x``, or of ``projection(x)``.
        projection: a module that brings ``x`` to the body's output shape, where they differ.

    ``forward(x, *more, **named)`` hands further inputs to the body alone.

    Raises:
        TypeError: an argument is no module; when it runs, ``x`` or an output is no tensor.
        ValueError: when it runs, the two shapes differ.
    """

    def __init__(self, body: nn.Module, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.body = checked("Residual", "body", body)
        self.projection = (
            None if projection is None else checked("Residual", "projection", projection)
        )

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        """The sum; its shape is the body's output shape."""
        kept = x
        if self.projection is not None:
            kept = self.projection(copied(x) if may_change(self.projection) else x)
        inputs: Any = (x, *more)
        if may_change(self.body):
            inputs, named = copied((inputs, named))
        made: Tensor = self.body(*inputs, **named)
        who = "x" if self.projection is None else "projection(x)"
        value: Any
        for what, value in ((who, kept), ("body(x)", made)):
            if not isinstance(value, Tensor):
                raise TypeError(f"Residual: {what} is {described(value)}, not a tensor.")
        if kept.shape != made.shape:
            mend = "; pass projection=, a module that brings x to that shape"
            raise ValueError(
                f"Residual: {who} is {tuple(kept.shape)}, body(x) is {tuple(made.shape)}; they "
                f"must be of one shape{mend if self.projection is None else ''}."
            )
        return kept + made


promise(Residual, lambda block: Touch.FRESH)
