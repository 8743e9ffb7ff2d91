"""What torch's layers want of their inputs, read from the layer: for notes on errors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter


@dataclass(frozen=True)
class Want:
    """What a layer wants of one input, and what mends an input that is not so."""

    text: str
    """Shape and dtype, as ``float32 [..., 10]``."""
    mend: str | None = None
    """None where the input is as it should be."""


def want(module: nn.Module, args: tuple[Any, ...]) -> Want | None:
    """What ``module`` wants of its first tensor; None where that is not known."""
    if any(isinstance(own, UninitializedParameter) for own in module.parameters(recurse=False)):
        return None
    given = next((value for value in args if isinstance(value, torch.Tensor)), None)
    for kind in type(module).__mro__:
        rule = _RULES.get(kind)
        if rule is not None:
            return rule(module, given)
    return None


def _floating(module: Any, given: torch.Tensor | None, shape: str, misfit: str | None) -> Want:
    """A floating input of the dtype of the layer's weight; ``misfit`` mends its shape."""
    weight = getattr(module, "weight", None)
    if weight is None:
        weight = next(iter(module.parameters(recurse=False)), None)
    if weight is None:
        return Want(shape, misfit)
    dtype = name_of(weight.dtype)
    if misfit is None and given is not None and given.dtype != weight.dtype:
        misfit = f"give inputs of {dtype}, or cast the network: .to({given.dtype})"
    return Want(f"{dtype} {shape}", misfit)


def name_of(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def _axis(given: torch.Tensor | None, axis: int) -> int | None:
    """The size of an axis, None where there is no such axis."""
    if given is None or not -given.dim() <= axis < given.dim():
        return None
    return given.shape[axis]


def _last(size: str, out: str) -> Callable[[Any, torch.Tensor | None], Want]:
    """Layers over the last axis, whose size is the layer's ``size``."""

    def rule(module: Any, given: torch.Tensor | None) -> Want:
        wanted, came = getattr(module, size), _axis(given, -1)
        misfit = None
        if came is not None and came != wanted:
            misfit = (
                f"give this layer {size}={came}, or what comes before it {wanted} features ({out})"
            )
        return _floating(module, given, f"[..., {wanted}]", misfit)

    return rule


def _channels(size: str, spatial: int) -> Callable[[Any, torch.Tensor | None], Want]:
    """Convolutions: ``[N, C, *spatial]``, or without ``N``."""
    axes = ["D", "H", "W"][-spatial:] if spatial > 1 else ["L"]

    def rule(module: Any, given: torch.Tensor | None) -> Want:
        wanted = getattr(module, size)
        shape = f"[N, {', '.join([str(wanted), *axes])}]"
        misfit = None
        if given is not None:
            came = _axis(given, -spatial - 1)
            if given.dim() not in (spatial + 1, spatial + 2):
                misfit = f"give it {spatial + 2} axes; {given.dim()} came"
            elif came != wanted:
                misfit = f"give this layer {size}={came}, or what comes before it {wanted} channels"
        return _floating(module, given, shape, misfit)

    return rule


def _second(size: str, *dims: int) -> Callable[[Any, torch.Tensor | None], Want]:
    """Norms over the channels on axis 1."""

    def rule(module: Any, given: torch.Tensor | None) -> Want:
        wanted, came = getattr(module, size), _axis(given, 1)
        misfit = None
        if given is not None and dims and given.dim() not in dims:
            misfit = f"give it {' or '.join(map(str, dims))} axes; {given.dim()} came"
        elif came is not None and came != wanted:
            misfit = f"give this layer {size}={came}, or what comes before it {wanted} channels"
        elif came is not None and given is not None and given.numel() == came and module.training:
            misfit = "give it more than one value a channel (a larger batch), or call .eval()"
        return _floating(module, given, f"[N, {wanted}, ...]", misfit)

    return rule


def _normalized(module: Any, given: torch.Tensor | None) -> Want:
    wanted = tuple(module.normalized_shape)
    misfit = None
    if given is not None and tuple(given.shape[-len(wanted) :]) != wanted:
        came = list(given.shape[-len(wanted) :])
        misfit = f"give this layer normalized_shape={came}, or an input that ends in {list(wanted)}"
    return _floating(module, given, f"[..., {', '.join(map(str, wanted))}]", misfit)


def _indices(module: Any, given: torch.Tensor | None) -> Want:
    misfit = None
    if given is not None and given.dtype not in (torch.int64, torch.int32):
        misfit = "give it indices: .long(), or ch.spec(..., dtype=torch.int64)"
    return Want(f"int64 [...] below {module.num_embeddings}", misfit)


def _sequence(module: Any, given: torch.Tensor | None) -> Want:
    wanted, came = module.input_size, _axis(given, -1)
    axes = "N, L" if getattr(module, "batch_first", False) else "L, N"
    misfit = None
    if given is not None and given.dim() not in (2, 3):
        misfit = f"give it 2 or 3 axes; {given.dim()} came"
    elif came is not None and came != wanted:
        misfit = f"give this layer input_size={came}, or what comes before it {wanted} features"
    return _floating(module, given, f"[{axes}, {wanted}]", misfit)


def _attention(module: Any, given: torch.Tensor | None) -> Want:
    wanted, came = module.embed_dim, _axis(given, -1)
    axes = "N, L" if module.batch_first else "L, N"
    misfit = None
    if came is not None and came != wanted:
        misfit = f"give this layer embed_dim={came}, or what comes before it {wanted} features"
    return Want(f"query [{axes}, {wanted}]", misfit)


_RULES: dict[type, Callable[[Any, torch.Tensor | None], Want]] = {
    nn.Linear: _last("in_features", "out_features"),
    nn.Bilinear: _last("in1_features", "out_features"),
    nn.RNNCellBase: _last("input_size", "hidden_size"),
    nn.RNNBase: _sequence,
    nn.MultiheadAttention: _attention,
    nn.Embedding: _indices,
    nn.EmbeddingBag: _indices,
    nn.LayerNorm: _normalized,
    nn.RMSNorm: _normalized,
    nn.GroupNorm: _second("num_channels"),
    nn.BatchNorm1d: _second("num_features", 2, 3),
    nn.BatchNorm2d: _second("num_features", 4),
    nn.BatchNorm3d: _second("num_features", 5),
    nn.InstanceNorm1d: _second("num_features", 2, 3),
    nn.InstanceNorm2d: _second("num_features", 3, 4),
    nn.InstanceNorm3d: _second("num_features", 4, 5),
    nn.Conv1d: _channels("in_channels", 1),
    nn.Conv2d: _channels("in_channels", 2),
    nn.Conv3d: _channels("in_channels", 3),
    nn.ConvTranspose1d: _channels("in_channels", 1),
    nn.ConvTranspose2d: _channels("in_channels", 2),
    nn.ConvTranspose3d: _channels("in_channels", 3),
}
