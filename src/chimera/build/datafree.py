"""Running a program without data: large tensors live on the meta device, small ones are real.

Under the mode ``DataFree``

- a tensor that the program makes from nothing (``torch.zeros``, ``torch.linspace``, ...) is real,
  on the CPU, if it has at most ``SMALL`` elements, and has no data otherwise, whatever device the
  program names: so ``.item()`` on a small schedule works and a large network takes no memory;
- where tensors with and without data meet, the result has no data;
- a tensor with data into which one without is written counts as one without from then on;
- moving a tensor to a device moves nothing;
- a product of matrices of two dtypes is an error, as with data, where torch's own functions without
  data multiply them.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import TorchFunctionMode

from chimera.build.familiar import Familiar
from chimera.decide.explore import called, hide
from chimera.paths.nest import map_leaves, tensors_in

hide(__file__)

SMALL = 4096
"""The most elements of a tensor that is kept real."""


def _named(owner: Any, names: str) -> frozenset[Any]:
    return frozenset(getattr(owner, name) for name in names.split())


_MAKERS = _named(
    torch,
    "arange bartlett_window blackman_window empty empty_strided eye full hamming_window "
    "hann_window kaiser_window linspace logspace normal ones rand randint randn randperm range "
    "tril_indices triu_indices zeros",
)
_FROM_VALUES = _named(torch, "tensor as_tensor asarray")
_LIKE = _named(torch, "empty_like full_like ones_like rand_like randint_like randn_like zeros_like")
_NEW = _named(torch.Tensor, "new_empty new_full new_ones new_tensor new_zeros")
_MOVES = _named(torch.Tensor, "cpu cuda xpu")
_FILLS = _named(
    torch.Tensor,
    "bernoulli_ cauchy_ copy_ exponential_ fill_ geometric_ log_normal_ normal_ random_ uniform_ "
    "zero_",
)
_WRITES_STATISTICS = _named(torch.nn.functional, "batch_norm instance_norm")
_INDEXES = _named(torch.Tensor, "__getitem__ __setitem__")
_IN_PLACE = _named(
    torch.Tensor,
    "__iadd__ __iand__ __idiv__ __ifloordiv__ __ilshift__ __imod__ __imul__ __ior__ __ipow__ "
    "__irshift__ __isub__ __itruediv__ __ixor__ __setitem__",
)
_MULTIPLIED = {
    **dict.fromkeys((*_named(torch, "matmul mm mv"), torch.nn.functional.linear), (0, 1)),
    **dict.fromkeys(_named(torch.Tensor, "matmul mm mv __matmul__ __rmatmul__"), (0, 1)),
    **dict.fromkeys((*_named(torch, "addmm addmv"), *_named(torch.Tensor, "addmm addmv")), (1, 2)),
    torch.nn.functional.multi_head_attention_forward: (0, 11),
}
"""Functions that multiply matrices, and the places of two of them."""


class DataFree(TorchFunctionMode):
    """The mode; see the file's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        """Whether calls go through as they are."""
        self.trace: Callable[[list[torch.Tensor], Any], None] | None = None
        """Told the tensors that went into a call, and what came out."""
        self.reads_values = False
        """Whether a shape came from the values of a mask."""
        self.known: Familiar | None = None
        """What spares calls whose results are known, where nobody looks at the steps in them."""
        self._written: dict[int, torch.UntypedStorage] = {}

    def hidden(self, tensor: torch.Tensor) -> bool:
        """Whether the data of ``tensor`` is not there, or means nothing."""
        if tensor.is_meta:
            return True
        return bool(self._written) and _storage(tensor).data_ptr() in self._written

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if self.paused:
            return func(*args, **named)
        if func in _FROM_VALUES:
            return called(func, args, {**named, "device": None})
        if func is torch.Tensor.to:
            args, named = _without_device(args, named)
            if len(args) == 1 and not named:
                return args[0]
        elif func in _MOVES:
            return args[0]
        elif func in _LIKE and "out" not in named and args[0].numel() <= SMALL:
            return func(*args, **{**named, "device": "cpu"})
        elif func in _NEW:
            empty = torch.empty(0, dtype=args[0].dtype, device="cpu")
            return _make(func, (empty, *args[1:]), named)
        elif func in _FILLS and not args[0].is_meta and args[0].numel() > SMALL:
            return args[0]
        tensors = tensors_in((args, named))
        if not tensors:
            return _make(func, args, named) if func in _MAKERS else called(func, args, named)
        hidden = [tensor for tensor in tensors if self.hidden(tensor)]
        if hidden and func in _MULTIPLIED:
            _check_dtypes(args, *_MULTIPLIED[func])
        if not hidden or all(tensor.is_meta for tensor in tensors):
            result = self._called(func, args, named)
        else:
            result = self._mixed(func, args, named)
        if self.trace is not None and hidden:
            self.trace(tensors, result)
        return result

    def _called(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self.known is None:
            return called(func, args, named)
        return self.known(called, func, args, named)

    def _mixed(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The call where some tensors have data and some have none."""
        first = args[0] if args else None
        if func in _INDEXES:
            index = _masks_as_indices(args[1], self.hidden)
            self.reads_values |= index is not args[1]
            args = (args[0], index, *args[2:])
        on_meta_args, on_meta_named = map_leaves(_on_meta, (args, named))
        result = self._called(func, on_meta_args, on_meta_named)
        if func in _WRITES_STATISTICS:
            statistics = (named.get(name) for name in ("running_mean", "running_var"))
            written = tensors_in((args[1:3], *statistics))
        else:
            written = tensors_in(named.get("out"))
        if _changes_its_first(func) and isinstance(first, torch.Tensor):
            result = first
            written.append(first)
        for tensor in written:
            if not tensor.is_meta:
                storage = _storage(tensor)
                self._written[storage.data_ptr()] = storage
        return result


def _check_dtypes(args: tuple[Any, ...], *places: int) -> None:
    if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
        return
    dtypes = [a.dtype for a in (args[i] for i in places if i < len(args)) if isinstance(a, Tensor)]
    if len(set(dtypes)) > 1:
        one, other = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise RuntimeError(f"mat1 and mat2 must have the same dtype, but got {one} and {other}")


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.untyped_storage()


def _on_meta(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor) and not (leaf.is_meta or is_uninitialized(leaf)):
        return leaf.to("meta")
    return leaf


def is_uninitialized(tensor: object) -> bool:
    """Whether ``tensor`` waits for its shape."""
    return isinstance(tensor, (UninitializedParameter, UninitializedBuffer))


def _changes_its_first(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name == "__set__" or func in _IN_PLACE
    return bool(name.endswith("_"))


def _make(func: Callable[..., torch.Tensor], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A tensor made from nothing: measured without data, made with it if it is small."""
    measured = {
        key: value for key, value in named.items() if key not in ("generator", "pin_memory")
    }
    made = called(func, args, {**measured, "device": "meta"})
    if made.numel() > SMALL:
        return made
    return func(*args, **{**named, "device": "cpu"})


def _without_device(
    args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of ``Tensor.to`` that change the dtype or the memory format."""
    dtypes = [named["dtype"]] if named.get("dtype") is not None else []
    for value in (*args[1:], named.get("other")):
        if isinstance(value, torch.dtype):
            dtypes.append(value)
        elif isinstance(value, torch.Tensor):
            dtypes.append(value.dtype)
    kept = {key: named[key] for key in ("memory_format",) if named.get(key) is not None}
    return (args[0], *dtypes[:1]), kept


def _masks_as_indices(index: Any, hidden: Callable[[torch.Tensor], bool]) -> Any:
    """``index`` with its boolean masks, where their data is there, as the indices they select."""
    parts = index if isinstance(index, tuple) else (index,)
    found: list[Any] = []
    for part in parts:
        is_mask = isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8)
        if is_mask and part.dim() and not hidden(part):
            found.extend(part.nonzero(as_tuple=True))
        else:
            found.append(part)
    return index if all(map(operator.is_, found, parts)) else tuple(found)
