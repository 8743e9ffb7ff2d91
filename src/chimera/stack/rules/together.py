"""The way out of vmap for a stack rule: a function of all members' tensors at once.

The public way is an ``autograd.Function`` with a ``vmap`` static method; each call of one costs
some 0.15 ms of Python. torch's own transforms unwrap batched tensors by the private names below in
a tenth of that; where torch lacks one of them, or a user's own transform stands in between, the
public way is taken. ``tests/stack/rules/test_together.py`` tells when torch changes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]

try:
    from torch._C._functorch import (
        _add_batch_dim,
        current_level,
        get_unwrapped,
        is_batchedtensor,
        is_functorch_wrapped_tensor,
        maybe_current_level,
        maybe_get_bdim,
        maybe_get_level,
    )
    from torch._functorch.pyfunctorch import (
        VmapInterpreter,
        retrieve_current_functorch_interpreter,
        temporarily_pop_interpreter_stack,
    )

    PRIVATE = True
except ImportError:  # another torch: the public way serves
    PRIVATE = False


class _Noting(threading.local):
    """Who wants to know of the tensors that rules make in this thread: no mode sees them."""

    note: Callable[[Tensor], None] | None = None


NOTING = _Noting()


def together(function: Function, *arguments: Any) -> Any:
    """Call ``function(size, *arguments)`` with the tensors of all members, from inside vmap.

    Args:
        function: gets the number of members, and in the place of every tensor the members'
            ``[members, ...]``, a shared one expanded; other arguments as they are. Gives a tensor
            or a tuple of tensors ``[members, ...]``. A draw in it must ask ``require_draws``.
        arguments: tensors of one member, and anything else.

    Returns:
        What the function gave, as tensors of one member.
    """
    if PRIVATE and _is_simple(arguments):
        return _unwrapped(function, arguments)
    return _Together.apply(function, *arguments)  # type: ignore[no-untyped-call]


def is_together(*arguments: Any) -> bool:
    """Whether members run together here, and some of the arguments differ between them."""
    if not PRIVATE:
        return True
    wrapped = [a for a in arguments if isinstance(a, Tensor) and is_functorch_wrapped_tensor(a)]
    return any(is_batchedtensor(value) for value in wrapped)


def of_each(create: Callable[[int], Tensor]) -> Tensor | None:
    """A new tensor of which each member has its own, from inside vmap.

    Args:
        create: gives it ``[members, ...]`` for so many members.

    Returns:
        The tensor of one member; None where no vmap is innermost, or torch lacks a private name.
    """
    if not PRIVATE or maybe_current_level() is None:
        return None
    interpreter: Any = retrieve_current_functorch_interpreter()
    if not isinstance(interpreter, VmapInterpreter):
        return None
    level = current_level()
    with temporarily_pop_interpreter_stack():
        whole = create(interpreter.batch_size())
    return _of_a_member(whole, level)


def members_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """A tensor that vmap hands over, with the member axis first."""
    if dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor if dim == 0 else tensor.movedim(dim, 0)


def _is_simple(arguments: tuple[Any, ...]) -> bool:
    """Whether every batched tensor is of the innermost transform, vmap, and of no other."""
    level, seen = current_level(), False
    for value in arguments:
        if isinstance(value, Tensor) and is_functorch_wrapped_tensor(value):
            if not is_batchedtensor(value) or maybe_get_level(value) != level:
                return False
            if is_functorch_wrapped_tensor(get_unwrapped(value)):
                return False
            seen = True
    return seen


def _unwrapped(function: Function, arguments: tuple[Any, ...]) -> Any:
    level = current_level()
    interpreter: Any = retrieve_current_functorch_interpreter()
    size = interpreter.batch_size()
    values = []
    for value in arguments:
        if isinstance(value, Tensor):
            wrapped = is_batchedtensor(value)
            dim = maybe_get_bdim(value) if wrapped else None
            value = members_first(get_unwrapped(value) if wrapped else value, dim, size)
        values.append(value)
    with temporarily_pop_interpreter_stack():
        results = function(size, *values)
    if isinstance(results, Tensor):
        return _of_a_member(results, level)
    return tuple(_of_a_member(result, level) for result in results)


def _of_a_member(whole: Tensor, level: int) -> Tensor:
    made: Tensor = _add_batch_dim(whole, 0, level)
    if NOTING.note is not None:
        NOTING.note(made)
    return made


class _Together(torch.autograd.Function):
    """The public way."""

    @staticmethod
    def forward(function: Function, *arguments: Any) -> Any:
        """Where no argument belongs to a member, one member speaks for all."""
        ones = [a.unsqueeze(0) if isinstance(a, Tensor) else a for a in arguments]
        with torch.no_grad():
            results = function(1, *ones)
        if isinstance(results, Tensor):
            return results.squeeze(0)
        return tuple(result.squeeze(0) for result in results)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("a rule outside of vmap has no backward")

    @staticmethod
    def vmap(info: Any, in_dims: Any, function: Function, *arguments: Any) -> tuple[Any, Any]:
        values = [
            members_first(value, dim, info.batch_size) if isinstance(value, Tensor) else value
            for value, dim in zip(arguments, in_dims[1:], strict=True)
        ]
        results = function(info.batch_size, *values)
        return results, 0 if isinstance(results, Tensor) else (0,) * len(results)
