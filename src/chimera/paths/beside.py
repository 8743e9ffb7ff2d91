"""What mends that which a layer takes beside its input, masks and states: for notes on errors."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def misfit_beside(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The mend for a mask of attention or a state of a recurrent layer; None where they fit."""
    for kind, rule in _RULES.items():
        if isinstance(module, kind):
            try:
                given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            except TypeError:
                return None
            return rule(module, given)
    return None


def mask_misfit(query: Tensor, key: Tensor, mask: Any) -> str | None:
    """The mend for ``attn_mask`` of ``scaled_dot_product_attention``."""
    if not isinstance(mask, Tensor) or not query.dim() > 1 < key.dim():
        return None
    wanted = (*query.shape[:-2], query.shape[-2], key.shape[-2])
    fits = mask.dim() <= len(wanted) and all(
        came in (1, size) for came, size in zip(mask.shape[::-1], wanted[::-1], strict=False)
    )
    if fits:
        return None
    return (
        f"give a mask of {list(wanted[-2:])}, what asks by what is asked, or one that broadcasts "
        f"to {list(wanted)}; {list(mask.shape)} came"
    )


def _attention(module: Any, given: Mapping[str, Any]) -> str | None:
    query, key = given["query"], given["key"]
    if not isinstance(query, Tensor) or not isinstance(key, Tensor) or query.dim() not in (2, 3):
        return None
    batched = query.dim() == 3
    time = 1 if batched and module.batch_first else 0
    asks, asked = query.shape[time], key.shape[time]
    batch = [query.shape[1 - time]] if batched else []
    mask, left = given.get("attn_mask"), given.get("key_padding_mask")
    heads = [size * module.num_heads for size in batch] or [module.num_heads]
    shapes = {"attn_mask": [[asks, asked], [*heads, asks, asked]]}
    shapes["key_padding_mask"] = [[*batch, asked]]
    for name, one in (("attn_mask", mask), ("key_padding_mask", left)):
        if not isinstance(one, Tensor):
            continue
        if list(one.shape) not in shapes[name]:
            text = f"give an {name}" if name == "attn_mask" else f"give a {name}"
            text += f" of {' or '.join(map(str, shapes[name]))}; {list(one.shape)} came"
            return text + (": .mT" if list(one.shape)[::-1] in shapes[name] else "")
        if not (one.dtype == torch.bool or one.dtype.is_floating_point):
            return f"give a boolean {name}, True where an entry is left out: .bool()"
    return None


def _state(module: Any, given: Mapping[str, Any]) -> str | None:
    x, state = given["input"], given.get("hx")
    if not isinstance(x, Tensor) or x.dim() not in (2, 3):
        return None
    batch = [x.shape[0 if module.batch_first else 1]] if x.dim() == 3 else []
    layers = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or module.hidden_size, module.hidden_size]
    if isinstance(module, nn.LSTM) and isinstance(state, Tensor):
        return "give the LSTM a pair of states, (h, c); one tensor came"
    for one, size in zip(state if isinstance(state, tuple) else (state,), sizes, strict=False):
        wanted = [layers, *batch, size]
        if isinstance(one, Tensor) and list(one.shape) != wanted:
            return (
                f"give a state of {wanted}, [layers x directions, batch, features]; "
                f"{list(one.shape)} came"
            )
    return None


_RULES: dict[type[nn.Module], Callable[[Any, Mapping[str, Any]], str | None]] = {
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _state,
}
