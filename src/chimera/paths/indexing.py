"""What mends an index, or an ``einsum``, that does not fit its tensors: for notes on errors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def index_misfit(tensor: Tensor, key: Any) -> str | None:
    """The mend for ``tensor[key]``; None where none is known."""
    keys = list(key) if isinstance(key, tuple) else [key]
    used = sum(_axes(one) for one in keys)
    if used > tensor.dim():
        return f"give at most {tensor.dim()} indices; {used} came for {list(tensor.shape)}"
    axis, found = 0, []
    for one in keys:
        if one is Ellipsis:
            axis += tensor.dim() - used
            continue
        if isinstance(one, Tensor):
            told = _tensor_misfit(tensor, axis, one)
            if told is not None:
                return told
            found.append(one)
        elif type(one) is int and not -tensor.shape[axis] <= one < tensor.shape[axis]:
            return _range(tensor.shape[axis], axis, one)
        axis += _axes(one)
    return _together([one for one in found if one.dtype not in _MASKS])


_MASKS = (torch.bool, torch.uint8)


def _axes(key: Any) -> int:
    """How many axes of the tensor an index is for."""
    if key is None or key is Ellipsis or isinstance(key, bool):
        return 0
    return key.dim() if isinstance(key, Tensor) and key.dtype in _MASKS else 1


def _range(size: int, axis: int, came: int) -> str:
    return f"axis {axis} has {size} entries: choose from {-size} to {size - 1}; {came} came"


def _tensor_misfit(tensor: Tensor, axis: int, index: Tensor) -> str | None:
    if index.dtype in _MASKS:
        wanted = list(tensor.shape[axis : axis + index.dim()])
        return None if list(index.shape) == wanted else f"give a mask of {wanted} there"
    if index.dtype.is_floating_point or index.dtype.is_complex:
        return "index by whole numbers or a mask: .long() or .bool()"
    return None


def _together(indices: Sequence[Tensor]) -> str | None:
    try:
        torch.broadcast_shapes(*(index.shape for index in indices))
    except RuntimeError:
        shapes = " and ".join(str(list(index.shape)) for index in indices)
        return f"give index tensors of one shape, {shapes} came; [:, None] on the first pairs all"
    return None


def value_misfit(tensor: Tensor, key: Any, value: Any) -> str | None:
    """The mend for ``tensor[key] = value``."""
    told = index_misfit(tensor, key)
    if told is not None or not isinstance(value, Tensor):
        return told
    try:
        place = torch.empty(tensor.shape, device="meta")[key]
    except (RuntimeError, IndexError, TypeError):
        return None
    return f"give a value of {list(place.shape)}, or one that broadcasts to it"


def gather_misfit(name: str, tensor: Tensor, dim: Any, index: Any) -> str | None:
    """The mend for ``gather``, ``scatter``, ``index_select`` and ``take_along_dim``."""
    if not isinstance(index, Tensor):
        return None
    if index.dtype.is_floating_point:
        return "give an index of whole numbers: .long()"
    if type(dim) is int and not -tensor.dim() <= dim < tensor.dim():
        return f"choose dim from {-tensor.dim()} to {tensor.dim() - 1}"
    if name == "index_select":
        return None if index.dim() == 1 else f"give an index of one axis; {index.dim()} came"
    if index.dim() != tensor.dim():
        return f"give the index {tensor.dim()} axes, as the tensor has; {index.dim()} came"
    for axis, (size, most) in enumerate(zip(index.shape, tensor.shape, strict=True)):
        if size > most and type(dim) is int and axis != dim % tensor.dim():
            return f"axis {axis} of the index is {size}, and may be {most} at most"
    return None


def einsum_misfit(args: Sequence[Any]) -> str | None:
    """The mend for ``einsum(equation, *operands)``; None where none is known."""
    if not args or not isinstance(args[0], str):
        return None
    given = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
    operands = [one for one in given if isinstance(one, Tensor)]
    left, arrow, output = args[0].replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        return f"the equation names {len(inputs)} inputs; {len(operands)} came"
    sizes: dict[str, tuple[int, int, int]] = {}
    for place, (labels, operand) in enumerate(zip(inputs, operands, strict=True)):
        if "..." in labels:
            before, _, after = labels.partition("...")
            axes = [*range(len(before)), *range(operand.dim() - len(after), operand.dim())]
            labels = before + after
        else:
            axes = list(range(operand.dim()))
        if len(axes) != len(labels) or min(axes, default=0) < 0:
            came = list(operand.shape)
            return f"'{labels}' names {len(labels)} axes of operand {place}, {came}"
        for label, axis in zip(labels, axes, strict=True):
            size = operand.shape[axis]
            known = sizes.setdefault(label, (size, place, axis))
            if known[0] == 1:
                sizes[label] = (size, place, axis)
            elif size not in (1, known[0]):
                first = f"{known[0]} on axis {known[2]} of operand {known[1]}"
                return f"make '{label}' equal: {first}, {size} on axis {axis} of operand {place}"
    for label in output.replace("...", "") if arrow else "":
        if label not in sizes:
            return f"'{label}' of the output stands in no input"
        if output.count(label) > 1:
            return f"name '{label}' once in the output"
    return None
