"""Autocast inside ``torch.vmap``: the casts that torch makes for a module alone.

Autocast acts on tensors below vmap, where a layer is in pieces already: a linear layer's product
would be lowered and its bias added in float32. ``Autocast`` makes the casts above, where functions
of torch are called, by torch's own lists ("Autocast Op Reference" of its documentation): some
functions compute in the lower dtype, some in the widest of their arguments, all others that it
lists in float32. Which functions it lists is asked of the installed torch, by a private name;
``tests/stack/rules/test_autocast.py`` tells when that changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from chimera.paths.nest import map_leaves
from chimera.stack.rules.functions import FUNCTIONS
from chimera.stack.rules.opened import opened

# fmt: off
LOWER = frozenset({
    "_addmm_activation", "_convolution", "_native_multi_head_attention",
    "_scaled_dot_product_flash_attention", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell",
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul", "conv1d",
    "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "convolution", "cudnn_convolution", "cudnn_convolution_transpose",
    "einsum", "gru_cell", "linalg_multi_dot", "linalg_vecdot", "linear", "lstm_cell",
    "matmul", "mkldnn_rnn_layer", "mm", "mv", "prelu", "rnn_relu_cell", "rnn_tanh_cell",
    "scaled_dot_product_attention",
})
_WIDEST_CUDA = frozenset({
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sampler", "index_put",
    "scatter_add", "tensordot", "vdot",
})
# fmt: on
WIDEST = {"cpu": frozenset({"cat", "index_copy", "stack"}), "cuda": _WIDEST_CUDA}
REFUSED = {"cuda": frozenset(["binary_cross_entropy"])}
# What autocast does not know on a device, while vmap makes of it what autocast does know.
WHOLE = frozenset(["mv", "addmv", "dot", "vdot", "outer", "ger", "addr", "bilinear"])

# What computes in float32 and gives the dtype of its input, for weights in float32 too.
MIXED = frozenset({"batch_norm", "instance_norm", "layer_norm", "group_norm"})

_ALIASES = {
    "__matmul__": "matmul",
    "__pow__": "pow",
    "max_unpool1d": "max_unpool2d",
    "concat": "cat",
    "concatenate": "cat",
    "multi_dot": "linalg_multi_dot",
    "vector_norm": "linalg_vector_norm",
    "matrix_norm": "linalg_matrix_norm",
}
# Functions that are replaced for the sake of what they call.
_COMPOSED = (
    F.multi_head_attention_forward,
    getattr(F, "linear_cross_entropy", None),  # new in torch 2.13
)
_HALF = (torch.bfloat16, torch.float16)
_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA", "xpu": "AutocastXPU", "mps": "AutocastMPS"}


@functools.cache
def listed(device: str) -> frozenset[str]:
    """The names of the operations that autocast casts for on a kind of device.

    Raises:
        NotImplementedError: this torch does not say.
    """
    try:
        names = torch._C._dispatch_get_registrations_for_dispatch_key(_KEYS[device])
    except (AttributeError, KeyError, RuntimeError) as error:
        raise NotImplementedError(f"what autocast casts on {device} is not known") from error
    return frozenset(name.removeprefix("aten::").split(".")[0] for name in names)


class Autocast(TorchFunctionMode):
    """Casts what functions of torch are called with, as autocast does outside of vmap.

    Args:
        device: the kind of device that the members are on.

    Attributes:
        used: whether autocast was on in any call.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device
        self.used = False
        self._open: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not torch.is_autocast_enabled(self._device):
            return func(*args, **kwargs)
        self.used = True
        name = _name(func)
        if name in listed(self._device) and kwargs.get("out") is None:
            if name not in REFUSED.get(self._device, ()):
                if kwargs.get("dtype") is None:
                    args, kwargs = self._cast(name, args, kwargs)
                with _switched_off(self._device):
                    return func(*args, **kwargs)
        elif name in WHOLE or (name == "inner" and args[0].dim() == args[1].dim() == 1):
            with _switched_off(self._device):
                return func(*args, **kwargs)
        elif name in MIXED and args[0].dtype in _HALF:
            wide = map_leaves(lambda leaf: self._to(torch.float32, leaf), (args, kwargs))
            return func(*wide[0], **wide[1]).to(args[0].dtype)
        elif (func not in FUNCTIONS or func in _COMPOSED) and func not in self._open:
            inside = opened(func)
            if inside is not None:
                return self._run_open(func, inside, args, kwargs)
        return func(*args, **kwargs)

    def _run_open(self, func: Any, inside: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._open.append(func)  # a method of Tensor may call its base's of the same name
        try:
            with self:
                return inside(*args, **kwargs)
        finally:
            self._open.pop()

    def _cast(self, name: str, args: Any, kwargs: Any) -> Any:
        given: set[torch.dtype] = set()
        map_leaves(lambda leaf: given.add(leaf.dtype) if self._fits(leaf) else None, (args, kwargs))
        dtype = wanted(self._device, name, given)
        return map_leaves(lambda leaf: self._to(dtype, leaf), (args, kwargs))

    def _to(self, dtype: torch.dtype, leaf: Any) -> Any:
        return leaf.to(dtype) if self._fits(leaf) else leaf

    def _fits(self, leaf: Any) -> bool:
        return (
            isinstance(leaf, Tensor)
            and leaf.device.type == self._device
            and leaf.dtype in (torch.float32, *_HALF)
        )


def wanted(device: str, name: str, given: Collection[torch.dtype]) -> torch.dtype:
    """The dtype in which autocast runs a function that it lists, by the dtypes of its tensors."""
    lower = torch.get_autocast_dtype(device)
    if name in LOWER or (name in WIDEST.get(device, ()) and torch.float32 not in given):
        return lower
    return torch.float32


def autocast_of(device: torch.device) -> torch.dtype | None:
    """The lower dtype of autocast where it is on for a device, else None."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


def lowered(*tensors: Tensor | None) -> list[Tensor | None]:
    """Tensors as autocast hands them to what computes in the lower dtype."""
    return [
        tensor.to(torch.get_autocast_dtype(tensor.device.type))
        if tensor is not None and tensor.dtype in (torch.float32, *_HALF)
        else tensor
        for tensor in tensors
    ]


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    return _ALIASES.get(name, name)


@contextmanager
def _switched_off(device: str) -> Iterator[None]:
    torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, True)
