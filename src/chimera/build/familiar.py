"""Functions whose results without data are known from an earlier call of the same kind.

Of some functions torch computes the shape of a result without data by tens of calls of Python. Once
such a function has passed with inputs of given shapes, strides and dtypes, the next one with the
like needs no more than a tensor like the first one's result, joined to the graph of gradients.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from chimera.decide.explore import hide

hide(__file__)


class Familiar:
    """The calls that one run has seen."""

    def __init__(self) -> None:
        self._passed: set[Hashable] = set()

    def __call__(
        self,
        call: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any],
        func: Any,
        args: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        """``call(func, args, named)``, or what is like its result."""
        given_by, kind = _KNOWN.get(func, (None, None))
        given = None if given_by is None else given_by(args, named)
        if given is None or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            return call(func, args, named)
        key = (func, *map(_signed, given))
        if key in self._passed:
            try:
                return kind.apply(*given)
            except (RuntimeError, NotImplementedError):  # derivatives in forward mode
                return call(func, args, named)
        result = call(func, args, named)
        if result.is_meta and result.is_contiguous():
            self._passed.add(key)
        return result


def _of_linear(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...] | None:
    whole = len(args) == 3 and not named and (args[2] is None or _is_plain(args[2]))
    return args if whole and _is_plain(args[0]) and _is_plain(args[1]) else None


def _of_layer_norm(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...] | None:
    tensors = (*args[:1], named.get("weight"), named.get("bias"))
    if len(args) != 2 or len(named) != 3 or not all(map(_is_plain, tensors)):
        return None
    return (args[0], tuple(args[1]), named["weight"], named["bias"], named.get("eps"))


def _is_plain(value: Any) -> bool:
    return type(value) in (Tensor, nn.Parameter) and value.is_meta


def _signed(value: Any) -> Hashable:
    """What of an argument decides on the result's shape and dtype."""
    plain: Hashable = value
    return (*value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else plain


class _Linear(Function):
    """``functional.linear`` of tensors without data."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return x.new_empty((*x.shape[:-1], weight.shape[0]))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.biased = len(inputs) > 2 and inputs[2] is not None
        ctx.count = len(inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        rows = grad.reshape(-1, weight.shape[0])
        found = (grad @ weight, rows.mT @ x.reshape(-1, x.shape[-1]))
        return (*found, rows.sum(0) if ctx.biased else None)[: ctx.count]


class _LayerNorm(Function):
    """``functional.layer_norm`` of tensors without data."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, shape: Any, weight: Tensor, bias: Tensor, *more: Any) -> Tensor:
        return x.new_empty(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[2])
        ctx.more = [None] * (len(inputs) - 4)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        own = (grad * x).sum_to_size(weight.shape), grad.sum_to_size(weight.shape)
        return (grad * weight + x, None, *own, *ctx.more)


_KNOWN: dict[Any, tuple[Any, Any]] = {
    functional.linear: (_of_linear, _Linear),
    functional.layer_norm: (_of_layer_norm, _LayerNorm),
}
"""The functions that are known: what gives their inputs as their layers give them, None of another
call; and what stands for them."""
