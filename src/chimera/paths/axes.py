"""Mends of the axes of an input: too small, or with what a layer wants in another place."""

from collections.abc import Iterable
from typing import Any

from torch import Size, Tensor


def turned(given: Tensor, wanted: int, axis: int) -> str | None:
    """How the ``wanted`` numbers come to ``axis``; None where no other axis has that size, or
    several have. Axis 0 is the batch, and stays."""
    if axis == -1 and given.dim() > 2 and given.shape[1:].numel() == wanted:
        return f"flatten it first: .flatten(1) gives {[given.shape[0], wanted]}"
    place = axis % given.dim()
    found = [i for i in range(1, given.dim()) if given.shape[i] == wanted and i != place]
    if len(found) != 1 or not place:
        return None
    return f"its axis {found[0]} has the {wanted}: .movedim({found[0]}, {axis})"


def first(turn: str | None, other: str) -> str:
    """Two mends, of which the one that turns the input comes first if there is one."""
    return other if turn is None else f"{turn}; else {other}"


def too_small(module: Any, came: Size) -> str | None:
    """The mend where a convolution's kernel is larger than its padded input."""
    if module.transposed or isinstance(module.padding, str):
        return None
    sizes = zip(module.kernel_size, module.dilation, module.padding, strict=True)
    least = [dilation * (kernel - 1) + 1 - 2 * padding for kernel, dilation, padding in sizes]
    if all(size >= needed for size, needed in zip(came, least, strict=True)):
        return None
    return f"give it {_by(least)} or more, or pad it; {_by(came)} came"


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(str(max(size, 1)) for size in sizes)
