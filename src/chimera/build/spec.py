"""A tensor's specification: its shape and dtype, without data.

An axis is a size or a name. A named axis is free: the batch, the length of a sequence. When a
network is run on a specification, every free axis gets a size that no fixed axis has, the same
wherever its name stands, so that an axis can be followed through the network by its size.
"""

import operator
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any

import torch

Axis = int | str


class Spec:
    """The shape (sizes, and names for free axes) and dtype of one tensor."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[Axis, ...], dtype: torch.dtype = torch.float32) -> None:
        self.shape = shape
        self.dtype = dtype

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spec):
            return NotImplemented
        return self.shape == other.shape and self.dtype == other.dtype

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    @property
    def free(self) -> tuple[str, ...]:
        """The names of the free axes, in order, each once."""
        return tuple(dict.fromkeys(axis for axis in self.shape if isinstance(axis, str)))

    def sized(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """The shape with every free axis replaced by its size."""
        return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.shape)

    def __repr__(self) -> str:
        parts = [repr(axis) for axis in self.shape]
        if self.dtype != torch.float32:
            parts.append(f"dtype={self.dtype}")
        return f"spec({', '.join(parts)})"


def spec(*shape: Axis, dtype: torch.dtype = torch.float32) -> Spec:
    """The specification of a tensor: ``ch.spec(2, 20)``, ``ch.spec("batch", 20)``.

    Args:
        shape: one argument an axis: its size, or a name for an axis whose size is free.
        dtype: the tensor's dtype.

    Raises:
        TypeError: if an axis is neither an int nor a str, or ``dtype`` is no ``torch.dtype``.
        ValueError: if a size is negative or too large, or a name is empty.
    """
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"spec: dtype must be a torch.dtype such as torch.float32; got {dtype!r}")
    return Spec(tuple(_axis(position, axis) for position, axis in enumerate(shape)), dtype)


_MOST = 2**63 - 1


def _axis(position: int, axis: Any) -> Axis:
    if isinstance(axis, str):
        if not axis:
            raise ValueError(f'spec: axis {position} has an empty name; write "batch", say')
        return axis
    if isinstance(axis, (tuple, list)):
        sizes = ", ".join(map(repr, axis))
        raise TypeError(
            f"spec: axis {position} must be a size or a name; got {axis!r}; "
            f"give one argument an axis: spec({sizes})"
        )
    if axis is None:
        raise TypeError(f'spec: axis {position} is None; give a free axis a name, such as "batch"')
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(
            f"spec: axis {position} must be a size (int) or a name (str); "
            f"got {axis!r} of type {type(axis).__name__}"
        )
    size = operator.index(axis)
    if size < 0:
        raise ValueError(
            f"spec: axis {position} must not be negative; got {size}; "
            'a free axis is a name, such as "batch"'
        )
    if size > _MOST:
        raise ValueError(f"spec: axis {position} must be below 2**63; got {size}")
    return size


def resolutions(specs: Iterable[Spec], taken: Iterable[int] = ()) -> Iterator[dict[str, int]]:
    """Sizes for the free axes of ``specs``, one choice after another, to be tried in order.

    First primes, which a layer's width rarely is; then multiples of 64, for networks that halve
    an image again and again; then small ones, for networks that bound a length. No size is that
    of a fixed axis, or among those ``taken``. Without free axes the one choice is empty.
    """
    specs = list(specs)
    names = list(dict.fromkeys(name for spec in specs for name in spec.free))
    if not names:
        yield {}
        return
    fixed = {axis for spec in specs for axis in spec.shape if isinstance(axis, int)} | set(taken)
    for choice in (_primes(37), (64 * odd for odd in count(3, 2)), _primes(3)):
        sizes = islice((size for size in choice if size not in fixed), len(names))
        yield dict(zip(names, sizes, strict=True))


def _primes(first: int) -> Iterator[int]:
    for number in count(first):
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            yield number
