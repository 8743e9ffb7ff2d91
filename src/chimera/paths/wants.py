"""What torch's layers want of their inputs, read from the layer: for notes on errors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from chimera.paths.axes import first, too_small, turned


@dataclass(frozen=True)
class Want:
    """What a layer wants of one input, and what mends an input that is not so."""

    text: str
    """Shape and dtype, as ``float32 [..., 10]``."""
    mend: str | None = None
    """None where the input is as it should be."""
    device: torch.device | None = None
    """Where the layer's tensors are, if the input is elsewhere."""


def want(module: nn.Module, args: tuple[Any, ...]) -> Want | None:
    """What ``module`` wants of its inputs; None where that is not known."""
    if any(isinstance(own, UninitializedParameter) for own in module.parameters(recurse=False)):
        return None
    given = next((value for value in args if isinstance(value, torch.Tensor)), None)
    for kind in type(module).__mro__:
        if kind in _ALL_INPUTS:
            return _ALL_INPUTS[kind](module, args)
        rule = _RULES.get(kind)
        if rule is not None:
            found = rule(module, given)
            return found if found.mend is not None else replace(found, mend=_no_tensor(args))
    return None


def _no_tensor(args: tuple[Any, ...]) -> str | None:
    """The mend where the first input is no tensor."""
    given = args[0] if args else None
    if args and given is None:
        return "None came: does what comes before it return what it made?"
    if isinstance(given, (tuple, list)):
        text = f"a {type(given).__name__} of {len(given)} came; hand on the tensor in it"
        tensors = [isinstance(part, torch.Tensor) for part in given]
        if tensors == [True, False]:  # as an LSTM gives it
            text += ": output, _ = layer(x)"
        return text
    return None


def _floating(module: Any, given: torch.Tensor | None, shape: str, misfit: str | None) -> Want:
    """A floating input of the dtype of the layer's weight; ``misfit`` mends its shape."""
    weight = getattr(module, "weight", None)
    if weight is None:
        weight = next(iter(module.parameters(recurse=False)), None)
    if weight is None:
        return Want(shape, misfit)
    text = f"{name_of(weight.dtype)} {shape}"
    if misfit is not None or given is None:
        return Want(text, misfit)
    if given.dtype != weight.dtype:
        misfit = f"give inputs of {name_of(weight.dtype)}: .to({weight.dtype})"
        if given.dtype.is_floating_point:
            misfit += f", or cast the network: .to({given.dtype})"
        return Want(text, misfit)
    return _placed(Want(text), weight, given)


def _placed(wanted: Want, weight: torch.Tensor, given: torch.Tensor) -> Want:
    """``wanted``, and where; a tensor on meta stands for one anywhere."""
    if given.device == weight.device or given.is_meta or weight.is_meta:
        return wanted
    return Want(
        f"{wanted.text} on {weight.device}",
        f"move the input, .to('{weight.device}'), or the network, .to('{given.device}')",
        weight.device,
    )


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
        if given is not None and came is not None and came != wanted:
            misfit = first(
                turned(given, wanted, -1),
                f"give this layer {size}={came}, or what comes before it {wanted} features ({out})",
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
            elif came == wanted:
                misfit = too_small(module, given.shape[-spatial:])
            elif given.dim() == spatial + 1:
                misfit = f"give it {spatial + 2} axes, the batch first, or {wanted} channels"
                if wanted == 1:
                    misfit = f"give it an axis for its one channel: .unsqueeze(1); else {misfit}"
            else:
                misfit = first(
                    turned(given, wanted, 1),
                    f"give this layer {size}={came}, or what comes before it {wanted} channels",
                )
        return _floating(module, given, shape, misfit)

    return rule


def _second(size: str, *dims: int) -> Callable[[Any, torch.Tensor | None], Want]:
    """Norms over the channels on axis 1."""

    def rule(module: Any, given: torch.Tensor | None) -> Want:
        wanted, came = getattr(module, size), _axis(given, 1)
        misfit = None
        if given is not None and dims and given.dim() not in dims:
            misfit = f"give it {' or '.join(map(str, dims))} axes; {given.dim()} came"
        elif given is not None and came is not None and came != wanted:
            misfit = first(
                turned(given, wanted, 1),
                f"give this layer {size}={came}, or what comes before it {wanted} channels",
            )
        elif came is not None and given is not None and given.numel() == came and module.training:
            misfit = "give it more than one value a channel (a larger batch), or call .eval()"
        return _floating(module, given, f"[N, {wanted}, ...]", misfit)

    return rule


def _normalized(module: Any, given: torch.Tensor | None) -> Want:
    wanted = tuple(module.normalized_shape)
    misfit = None
    if given is not None and tuple(given.shape[-len(wanted) :]) != wanted:
        came = list(given.shape[-len(wanted) :])
        misfit = first(
            turned(given, wanted[0], -1) if len(wanted) == 1 else None,
            f"give this layer normalized_shape={came}, or an input that ends in {list(wanted)}",
        )
    return _floating(module, given, f"[..., {', '.join(map(str, wanted))}]", misfit)


def _indices(module: Any, given: torch.Tensor | None) -> Want:
    wanted = Want(f"int64 [...] from 0 to {module.num_embeddings - 1}")
    if given is None:
        return wanted
    if given.dtype not in (torch.int64, torch.int32):
        mend = "give it indices: .long(), or ch.spec(..., dtype=torch.int64)"
        return replace(wanted, mend=mend)
    outside = _outside(given, module.num_embeddings)
    if outside is not None:
        return replace(wanted, mend=outside)
    return _placed(wanted, module.weight, given)


def _outside(given: torch.Tensor, count: int) -> str | None:
    """The mend where indices are below 0 or not below ``count``."""
    if given.device.type != "cpu" or not given.numel():
        return None  # a GPU that saw such an index answers no more
    try:
        least, most = int(given.min()), int(given.max())
    except RuntimeError:  # under vmap no number can be read
        return None
    if least < 0:
        return f"give it no indices below 0; {least} came"
    if most < count:
        return None
    return f"give this layer num_embeddings={most + 1} or more, or smaller indices; {most} came"


def _sequence(module: Any, given: torch.Tensor | None) -> Want:
    wanted, came = module.input_size, _axis(given, -1)
    axes = "N, L" if getattr(module, "batch_first", False) else "L, N"
    misfit = None
    if given is not None and given.dim() not in (2, 3):
        misfit = f"give it 2 or 3 axes; {given.dim()} came"
    elif given is not None and came is not None and came != wanted:
        misfit = first(
            turned(given, wanted, -1),
            f"give this layer input_size={came}, or what comes before it {wanted} features",
        )
        if given.dim() == 2:
            misfit += f"; 2 axes are one sequence, [L, {wanted}], and a batch of them has 3"
    return _floating(module, given, f"[{axes}, {wanted}]", misfit)


def _attention(module: Any, args: tuple[Any, ...]) -> Want:
    """Query, key and value, and the masks beside them."""
    tensors = [value if isinstance(value, torch.Tensor) else None for value in args[:3]]
    sizes = (module.embed_dim, module.kdim, module.vdim)
    axes = "N, {}" if module.batch_first else "{}, N"
    named = list(zip(("query", "key", "value"), ("L", "S", "S"), sizes, strict=True))
    text = ", ".join(f"{name} [{axes.format(length)}, {size}]" for name, length, size in named)
    for (name, _, size), given in zip(named, tensors, strict=False):
        came = _axis(given, -1)
        if came is not None and came != size:
            own = "embed_dim" if name == "query" else f"{name[0]}dim"
            return Want(text, f"give this layer {own}={came}, or a {name} of {size} features")
    query, key, value = (*tensors, None, None, None)[:3]
    if query is None or key is None or value is None:
        return Want(text)
    if not query.dim() == key.dim() == value.dim():
        return Want(text, "give query, key and value the same number of axes")
    if key.shape[:-1] != value.shape[:-1]:
        return Want(text, "give key and value the same length and batch")
    if query.dim() == 3:
        batch = 0 if module.batch_first else 1
        if query.shape[batch] != key.shape[batch]:
            counts = f"{query.shape[batch]} and {key.shape[batch]}"
            mend = f"give query and key the same batch; axis {batch} is {counts}"
            if query.shape[1 - batch] == key.shape[1 - batch]:
                mend += f"; batch_first={not module.batch_first} takes the axes the other way round"
            return Want(text, mend)
    weight = module.out_proj.weight
    if query.dtype != weight.dtype:
        return Want(text, f"give inputs of {name_of(weight.dtype)}: .to({weight.dtype})")
    return _placed(Want(text), weight, query)


def _bilinear(module: Any, args: tuple[Any, ...]) -> Want:
    sizes = (module.in1_features, module.in2_features)
    text = " and ".join(f"{name_of(module.weight.dtype)} [..., {size}]" for size in sizes)
    for i, (size, one) in enumerate(zip(sizes, args, strict=False)):
        came = _axis(one, -1) if isinstance(one, torch.Tensor) else None
        if came is not None and came != size:
            return Want(
                text,
                f"give this layer in{i + 1}_features={came}, or input {i + 1} of {size} features",
            )
    given = next((value for value in args if isinstance(value, torch.Tensor)), None)
    return replace(_floating(module, given, text, None), text=text)


def _container(module: Any, given: torch.Tensor | None) -> Want:
    return Want("no call: it only holds modules", "call the modules in it one by one")


_ALL_INPUTS: dict[type, Callable[[Any, tuple[Any, ...]], Want]] = {
    nn.MultiheadAttention: _attention,
    nn.Bilinear: _bilinear,
}

_RULES: dict[type, Callable[[Any, torch.Tensor | None], Want]] = {
    nn.Linear: _last("in_features", "out_features"),
    nn.RNNCellBase: _last("input_size", "hidden_size"),
    nn.RNNBase: _sequence,
    nn.ModuleList: _container,
    nn.ModuleDict: _container,
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
