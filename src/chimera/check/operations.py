"""What a recorded run consists of: values, the operations between them, the calls of modules."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

LEAVING = frozenset(("numpy", "item", "tolist", "__array__", "__float__", "__int__"))
"""Functions whose result is no tensor any more."""


@dataclass(eq=False, repr=False)
class Value:
    """A tensor as an operation left it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    leaf: bool
    finite: bool = True
    nan: bool = False
    size: float = 0.0
    """The root of its mean square."""
    row: tuple[float, float] | None = None
    """Two sums over its last row: they tell whether it changed."""
    storage: int = 0
    """The address of its memory; views of one tensor have one. 0 where that is not known."""
    made: bool = False
    """Whether its memory was taken during the run, though no operation is known to have made it:
    a new parameter around the result of one."""
    small: Tensor | None = None
    """Its numbers, if it is boolean and small: a mask."""
    left: Tensor | None = None
    """Where it is below -1000, if it is small and not the same everywhere: a mask that is added."""
    maker: "Op | None" = None
    name: str | None = None
    """``"input 0"``, or the path of a parameter or buffer."""
    readers: "list[Op]" = field(default_factory=list)

    @property
    def foreign(self) -> bool:
        """Whether it is a trained tensor that is none of the network's parameters."""
        alone = self.maker is None and self.name is None
        return alone and self.leaf and self.requires_grad


@dataclass(eq=False, repr=False)
class Op:
    """One call of a function of torch."""

    index: int
    name: str
    path: str
    """Of the module whose forward called it."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    """Its arguments, a ``Value`` for each tensor."""
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    grad: bool
    """Whether gradients were recorded."""
    inplace: bool
    file: str | None
    line: int | None

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """An argument by name or by position."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if len(self.args) > position else default


@dataclass(eq=False, repr=False)
class Visit:
    """One call of a module."""

    path: str
    module: nn.Module
    above: "Visit | None"
    inputs: tuple[Value, ...]
    start: int
    """The index of the first operation in it."""
    outputs: tuple[Value, ...] = ()
    end: int = 0
    """The index after the last operation in it."""
    done: bool = False
    """Whether it returned."""


def through(value: Value, names: frozenset[str]) -> Iterator[Value]:
    """``value`` and what it was made of, as far as only the operations ``names`` stand between."""
    yield value
    while value.maker is not None and value.maker.name in names and value.maker.inputs:
        value = value.maker.inputs[0]
        yield value
