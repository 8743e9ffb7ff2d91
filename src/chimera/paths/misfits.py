"""What mends an operation of torch whose inputs do not fit each other: for notes on errors."""

from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from chimera.paths.beside import mask_misfit
from chimera.paths.indexing import einsum_misfit, gather_misfit, index_misfit, value_misfit
from chimera.paths.losses import loss_misfit


def misfit(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The mend for a failed call of the function called ``name``; None where it is not known."""
    given = (*args, *kwargs.values())
    tensors = [value for value in given if isinstance(value, Tensor)]
    if name in _PRODUCTS and len(tensors) > 1:
        first, second = tensors[:2]
        if name.startswith("rm"):
            first, second = second, first
        return _product(name, first, second)
    if name in ("getitem", "setitem") and len(args) > 1 and isinstance(args[0], Tensor):
        return index_misfit(*args) if len(args) == 2 else value_misfit(*args[:3])
    if name == "einsum":
        return einsum_misfit(args) or _dtypes(_operands(args))
    if name in _GATHERS and tensors and len(given) > 2:
        order = (0, 2, 1) if name == "take_along_dim" else (0, 1, 2)
        tensor, dim, index = (given[place] for place in order)
        return gather_misfit(name, tensor, dim, index)
    if name == "linear" and len(tensors) > 1:
        return _linear(*tensors[:2])
    if name in ("addmm", "baddbmm", "addmv", "addbmm") and len(tensors) > 2:
        return _product(name, *tensors[1:3])
    if name == "where" and len(tensors) > 1:
        return next(filter(None, (_elementwise(a, b) for a, b in combinations(tensors, 2))), None)
    if name in _JOINS and given and isinstance(given[0], (tuple, list)):
        parts = [part for part in given[0] if isinstance(part, Tensor)]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        return _join(name, parts, dim) if isinstance(dim, int) else None
    if name in _VIEWS and tensors:
        return _view(tensors[0], _sizes(args[1:], kwargs))
    if name in _ELEMENTWISE and len(tensors) == 2:
        return _elementwise(*tensors)
    if name == "scaled_dot_product_attention" and len(tensors) > 2:
        mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
        return mask_misfit(tensors[0], tensors[1], mask)
    if name in ("masked_fill", "masked_fill_") and len(tensors) > 1:
        return _elementwise(*tensors[:2])
    return loss_misfit(name, *tensors[:2]) if len(tensors) > 1 else None


_GATHERS = {"gather", "scatter", "scatter_", "index_select", "take_along_dim", "scatter_add"}
_PRODUCTS = {"matmul", "rmatmul", "mm", "bmm", "mv"}
_JOINS = {"cat", "concat", "concatenate", "stack"}
_VIEWS = {"view", "reshape"}
_ELEMENTWISE = {
    *("add", "radd", "iadd", "sub", "rsub", "isub", "mul", "rmul", "imul", "div", "truediv"),
    *("rtruediv", "maximum", "minimum", "pow", "lt", "le", "gt", "ge", "eq", "ne"),
}


def _product(name: str, first: Tensor, second: Tensor) -> str | None:
    if not first.dim() or not second.dim():
        return "a product takes tensors of one axis or more; multiply by a number with *"
    if first.dtype != second.dtype:
        return _cast(first, second)
    axis = -2 if second.dim() > 1 else -1
    if name in ("bmm", "baddbmm") and not first.dim() == second.dim() == 3:
        return f"give {name} 3 axes each; {first.dim()} and {second.dim()} came; @ takes any"
    if first.shape[-1] == second.shape[axis]:
        return None
    where = "last axis but one" if second.dim() > 1 else "axis"
    text = (
        f"the first's last axis, {first.shape[-1]}, and the second's {where}, "
        f"{second.shape[axis]}, must be equal"
    )
    if second.dim() > 1 and first.shape[-1] == second.shape[-1]:
        text += "; the second transposed would fit: .mT"
    return text


def _linear(given: Tensor, weight: Tensor) -> str | None:
    if given.dtype != weight.dtype:
        return _cast(given, weight)
    came, wanted = given.shape[-1:], weight.shape[-1:]
    if came == wanted:
        return None
    return f"the input's last axis, {list(came)}, and the weight's, {list(wanted)}, must be equal"


def _join(name: str, parts: list[Tensor], dim: int) -> str | None:
    if not parts:
        return None
    first = parts[0]
    for i, part in enumerate(parts):
        if part.dim() != first.dim():
            return f"give all {first.dim()} axes; {part.dim()} came in place {i}"
        for axis, (one, other) in enumerate(zip(first.shape, part.shape, strict=True)):
            joined = name != "stack" and axis == dim % first.dim()
            if one != other and not joined:
                kept = "" if name == "stack" else f" but {dim}"
                sizes = f"axis {axis} is {one} in place 0, {other} in place {i}"
                return f"make every axis{kept} equal; {sizes}"
    axes = first.dim() + (name == "stack")
    if not -axes <= dim < axes:
        return f"choose dim from {-axes} to {axes - 1}"
    return None


def _view(tensor: Tensor, sizes: list[int]) -> str | None:
    known = torch.Size([size for size in sizes if size >= 0]).numel()
    if not sizes:
        return None
    if sizes.count(-1) > 1:
        return "leave at most one size to be found, as -1"
    fits = tensor.numel() % known == 0 if -1 in sizes and known else tensor.numel() == known
    if not fits:
        came = f"{tensor.numel()} numbers came, {list(tensor.shape)}"
        return f"{came}; {sizes} holds {_held(sizes)}{_undivided(tensor, sizes)}"
    return "its numbers do not lie in that order in memory; use .reshape(...)"


def _undivided(tensor: Tensor, sizes: list[int]) -> str:
    """The axis that is to be split into parts that do not divide it, where one alone is."""
    kept = 0
    while kept < min(tensor.dim(), len(sizes)) and tensor.shape[kept] == sizes[kept]:
        kept += 1
    if tensor.dim() - kept != 1 or sizes[kept:].count(-1) != 1 or len(sizes) - kept < 2:
        return ""
    parts = torch.Size([size for size in sizes[kept:] if size >= 0]).numel()
    return f": the last axis, {tensor.shape[-1]}, is no multiple of {parts}"


def _held(sizes: list[int]) -> str:
    known = torch.Size([size for size in sizes if size >= 0]).numel()
    return f"multiples of {known}" if -1 in sizes else str(known)


def _sizes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    given = args or tuple(kwargs.values())
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        given = tuple(given[0])
    return [int(size) for size in given if isinstance(size, int)]


def _elementwise(first: Tensor, second: Tensor) -> str | None:
    for back, (one, other) in enumerate(zip(first.shape[::-1], second.shape[::-1], strict=False)):
        if one != other and 1 not in (one, other):
            return f"make axis {-1 - back} equal, or 1 in one of them; it is {one} and {other}"
    return None


def _operands(args: tuple[Any, ...]) -> list[Tensor]:
    given = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
    return [one for one in given if isinstance(one, Tensor)]


def _dtypes(tensors: list[Tensor]) -> str | None:
    other = next((one for one in tensors if one.dtype != tensors[0].dtype), None)
    return None if other is None else _cast(tensors[0], other)


def _cast(first: Tensor, second: Tensor) -> str:
    return f"give both one dtype: .to({first.dtype}) or .to({second.dtype})"
