"""Random operations of torch, each answered from keys instead of from a generator.

``REWRITES`` maps an operator of aten to a function ``(keys, members, args, kwargs)``. With
``members`` every result carries the member axis first, as ``torch.vmap`` lays it out; without, the
one key's row is returned alone. An operator that draws and is not listed here is for the caller
to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from chimera.draws import counter

Rewrite = Callable[[Tensor, bool, tuple[Any, ...], dict[str, Any]], Any]
REWRITES: dict[Any, Rewrite] = {}

_aten = torch.ops.aten


class Unwritable(Exception):
    """A draw that has no member axis where one was expected."""


def _rewrites(*operators: Any) -> Callable[[Rewrite], Rewrite]:
    def register(rewrite: Rewrite) -> Rewrite:
        for operator in operators:
            REWRITES[operator] = rewrite
        return rewrite

    return register


def _inner(shape: Sequence[int], keys: Tensor, members: bool) -> Sequence[int]:
    """The shape of one member's draw."""
    if not members:
        return tuple(shape)
    if not shape or shape[0] != len(keys):
        raise Unwritable(f"a draw of shape {tuple(shape)} has no axis of {len(keys)} members")
    return tuple(shape[1:])


def _outer(drawn: Tensor, members: bool) -> Tensor:
    return drawn if members else drawn.squeeze(0)


def _made(kwargs: dict[str, Any], like: Tensor | None = None) -> torch.dtype:
    dtype = kwargs.get("dtype")
    if dtype is None:
        return torch.get_default_dtype() if like is None else like.dtype
    assert isinstance(dtype, torch.dtype)
    return dtype


@_rewrites(_aten.bernoulli.p, _aten.bernoulli.default)
def _bernoulli(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    like = args[0]
    probability = args[1] if len(args) > 1 else like
    drawn = _chance(keys, members, probability, like.shape)
    return drawn.to(like.dtype)


@_rewrites(_aten.bernoulli_.float, _aten.bernoulli_.Tensor)
def _bernoulli_(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, probability = args[0], args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    return target.copy_(_chance(keys, members, probability, target.shape))


def _chance(keys: Tensor, members: bool, probability: Any, shape: Sequence[int]) -> Tensor:
    inner = _inner(shape, keys, members)
    if isinstance(probability, Tensor):
        probability = probability.expand(shape).view(len(keys), *inner)
    return _outer(counter.bernoulli(keys, probability, inner), members)


@_rewrites(_aten.native_dropout.default)
def _dropout(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensor, p, train = args
    if train is False:
        return tensor.clone(), torch.ones_like(tensor, dtype=torch.bool)
    mask = _chance(keys, members, 1 - p, tensor.shape)
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return tensor * mask * scale, mask


def _maker(draw: Callable[..., Tensor]) -> Rewrite:
    def rewrite(
        keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        inner = _inner(args[0], keys, members)
        return _outer(draw(keys, inner, _made(kwargs)), members)

    return rewrite


def _maker_like(draw: Callable[..., Tensor]) -> Rewrite:
    def rewrite(
        keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        inner = _inner(args[0].shape, keys, members)
        return _outer(draw(keys, inner, _made(kwargs, args[0])), members)

    return rewrite


REWRITES[_aten.rand.default] = _maker(counter.uniform)
REWRITES[_aten.randn.default] = _maker(counter.normal)
REWRITES[_aten.rand_like.default] = _maker_like(counter.uniform)
REWRITES[_aten.randn_like.default] = _maker_like(counter.normal)


def _numbers(args: tuple[Any, ...], first: float, second: float) -> tuple[float, float]:
    """The two numbers that follow the tensor, or what they are unless told."""
    return args[1] if len(args) > 1 else first, args[2] if len(args) > 2 else second


@_rewrites(_aten.uniform_.default)
def _uniform_(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target = args[0]
    low, high = _numbers(args, 0.0, 1.0)
    inner = _inner(target.shape, keys, members)
    drawn = counter.uniform(keys, inner, target.dtype).mul_(high - low).add_(low)
    return target.copy_(_outer(drawn, members))


@_rewrites(_aten.rrelu_with_noise.default)
def _rrelu(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Slopes below zero, drawn as ``uniform_`` draws; ``noise`` keeps them for the gradient."""
    tensor, noise = args[0], args[1]
    low, high = _numbers(args[1:], 1 / 8, 1 / 3)
    inner = _inner(tensor.shape, keys, members)
    drawn = counter.uniform(keys, inner, tensor.dtype).mul_(high - low).add_(low)
    noise.copy_(torch.where(tensor <= 0, _outer(drawn, members), 1))
    return tensor * noise


@_rewrites(_aten.rrelu_with_noise_.default)
def _rrelu_(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0].copy_(_rrelu(keys, members, args, kwargs))


@_rewrites(_aten.normal_.default)
def _normal_(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target = args[0]
    mean, std = _numbers(args, 0.0, 1.0)
    inner = _inner(target.shape, keys, members)
    drawn = counter.normal(keys, inner, target.dtype).mul_(std).add_(mean)
    return target.copy_(_outer(drawn, members))


@_rewrites(_aten.normal.Tensor_float, _aten.normal.float_Tensor, _aten.normal.Tensor_Tensor)
def _normal(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mean = args[0] if args else 0.0
    std = args[1] if len(args) > 1 else 1.0
    like = mean + std
    assert isinstance(like, Tensor)
    drawn = counter.normal(keys, _inner(like.shape, keys, members), like.dtype)
    return _outer(drawn, members) * std + mean


@_rewrites(_aten.exponential_.default)
def _exponential_(
    keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    target, rate = args[0], args[1] if len(args) > 1 else 1.0
    drawn = counter.exponential(keys, _inner(target.shape, keys, members), target.dtype)
    return target.copy_(_outer(drawn, members).div_(rate))


@_rewrites(_aten.randint.default, _aten.randint.low)
def _randint(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    low, high, shape = args if len(args) == 3 else (0, *args)
    drawn = counter.integers(keys, low, high, _inner(shape, keys, members))
    dtype = kwargs.get("dtype") or torch.int64
    return _outer(drawn, members).to(dtype)


@_rewrites(_aten.randint_like.default, _aten.randint_like.low_dtype)
def _randint_like(
    keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    like, low, high = args if len(args) == 3 else (args[0], 0, args[1])
    drawn = counter.integers(keys, low, high, _inner(like.shape, keys, members))
    return _outer(drawn, members).to(_made(kwargs, like))


@_rewrites(_aten.multinomial.default)
def _multinomial(keys: Tensor, members: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Rows of members are laid one after the other; each row's draws are its member's."""
    weights, count = args[0], args[1]
    replacement = args[2] if len(args) > 2 else False
    rows = weights.reshape(-1, weights.shape[-1])
    if rows.shape[0] % len(keys):
        raise Unwritable(f"{rows.shape[0]} rows of weights do not divide by {len(keys)} members")
    mine = rows.view(len(keys), -1, rows.shape[-1])
    if replacement:
        drawn = counter.uniform(keys, (mine.shape[1], count), torch.float64)
        edges = mine.double().cumsum(-1)
        index = torch.searchsorted(edges, drawn * edges[..., -1:], right=True)
        index = index.clamp_max_(rows.shape[-1] - 1)
    else:
        waits = counter.exponential(keys, mine.shape[1:], torch.float64) / mine.double()
        index = waits.argsort(dim=-1, stable=True)[..., :count]
    return index.reshape(*weights.shape[:-1], count)


def switched_off(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator that can draw does not: no dropout asked for, or not training."""
    arguments = operator._schema.arguments
    values = {known.name: known.default_value for known in arguments}  # torch leaves defaults out
    values |= {known.name: value for known, value in zip(arguments, args, strict=False)} | kwargs
    return any(values.get(name) == 0.0 for name in ("dropout_p", "dropout")) or any(
        values.get(name) is False for name in ("train", "training")
    )
