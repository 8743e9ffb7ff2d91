"""How the outputs of branches become one: concat, stack, sum, mean, tuple.

Contract: no output is changed in place (an identity branch gives the caller's own tensor). What
does not fit is a ValueError that names the branches and their shapes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Outputs = list[Any]


def concat(names: list[str], outputs: Outputs, dim: int) -> Tensor:
    """Outputs joined along ``dim``, an axis that they have; all other axes must agree."""
    tensors = _tensors("concat", names, outputs)
    axis = _axis("concat", names, tensors, dim, tensors[0].dim())
    rests = [(*t.shape[:axis], *t.shape[axis + 1 :]) for t in tensors]
    if any(t.dim() != tensors[0].dim() for t in tensors) or any(r != rests[0] for r in rests):
        raise ValueError(
            f"Parallel: combine='concat' with dim={dim} joins outputs that agree in every other "
            f"axis; {shapes(names, tensors)}."
        )
    return torch.cat(tensors, axis)


def stack(names: list[str], outputs: Outputs, dim: int) -> Tensor:
    """Outputs of one shape, joined along a new axis ``dim``."""
    tensors = _same("stack", names, outputs)
    return torch.stack(tensors, _axis("stack", names, tensors, dim, tensors[0].dim() + 1))


def add(names: list[str], outputs: Outputs, dim: int) -> Tensor:
    """The sum of outputs of one shape."""
    total, *rest = _same("sum", names, outputs)
    for tensor in rest:
        total = total + tensor
    return total


def mean(names: list[str], outputs: Outputs, dim: int) -> Tensor:
    """The mean of outputs of one shape."""
    tensors = _same("mean", names, outputs)
    return add(names, tensors, dim) / len(tensors)


def as_tuple(names: list[str], outputs: Outputs, dim: int) -> tuple[Any, ...]:
    """The outputs as they are, of any kind."""
    return tuple(outputs)


WAYS: dict[str, Callable[[list[str], Outputs, int], Any]] = {
    "concat": concat,
    "stack": stack,
    "sum": add,
    "mean": mean,
    "tuple": as_tuple,
}


def shapes(names: list[str], tensors: list[Tensor]) -> str:
    """The branches with the shapes that they gave, for a message."""
    said = [
        f"branch {name!r} gave {tuple(t.shape)}" for name, t in zip(names, tensors, strict=True)
    ]
    return ", ".join(said)


def _tensors(way: str, names: list[str], outputs: Outputs) -> list[Tensor]:
    for name, output in zip(names, outputs, strict=True):
        if not isinstance(output, Tensor):
            raise TypeError(
                f"Parallel: combine={way!r} takes tensors, branch {name!r} gave a "
                f"{type(output).__name__}; use combine='tuple', or a function of the outputs."
            )
    return outputs


def _same(way: str, names: list[str], outputs: Outputs) -> list[Tensor]:
    tensors = _tensors(way, names, outputs)
    if any(tensor.shape != tensors[0].shape for tensor in tensors):
        raise ValueError(
            f"Parallel: combine={way!r} takes outputs of one shape; {shapes(names, tensors)}."
        )
    return tensors


def _axis(way: str, names: list[str], tensors: list[Tensor], dim: int, axes: int) -> int:
    if not -axes <= dim < axes:
        first = shapes(names[:1], tensors[:1])
        mend = "combine='stack' joins along a new axis" if way == "concat" else "choose another dim"
        raise ValueError(f"Parallel: combine={way!r} has no axis dim={dim}: {first}; {mend}.")
    return dim % axes
