"""Parameters of a member's own for the time of a call, for members that need leaves.

A row of a stacked parameter has a history, so it is no leaf: it has no gradient of its own, no
optimizer takes it, and what happens to its ``.data`` is not what happens to a leaf's. Members that
ask for any of this run one by one with parameters of their own, in the memory of the rows. What a
later backward pass adds to them goes on to the gradient of the stacked parameter; a graph of their
gradients does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chimera.stack.absent import absent, nothing, row_alone
from chimera.stack.group import Group


class NeedsLeaves(BaseException):
    """A member asks what only a leaf answers. No module is meant to catch it."""


_OF_LEAVES = {
    *(getattr(Tensor, name).__get__ for name in ("is_leaf", "grad", "grad_fn")),
    *(getattr(Tensor, name).__set__ for name in ("grad", "data", "requires_grad")),
    *(getattr(Tensor, name).__delete__ for name in ("grad",)),
    *(Tensor.requires_grad_, Tensor.register_post_accumulate_grad_hook),
}


_HOOKING = {Tensor.register_hook, Tensor.register_post_accumulate_grad_hook}


class Asks(TorchFunctionMode):
    """Stops a member that asks a row what only a leaf answers, or goes backward.

    Args:
        rows: the member's tensors; none where they are leaves.
        twins: by the id of the template's own tensors their paths: nobody should meet them.

    Attributes:
        later: makes of a hook one that finds the member in place whenever it fires.
        hooks: whether the member hooked tensors.
    """

    later: Callable[[Callable[..., Any]], Callable[..., Any]]
    hooks = False

    def __init__(self, rows: Sequence[Tensor], twins: Mapping[int, str]) -> None:
        super().__init__()
        self._rows = {id(row) for row in rows if row.requires_grad}
        self._twins = twins

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if args and id(args[0]) in self._twins:
            raise TypeError(
                f"{self._twins[id(args[0])]}: forward reaches this tensor through an object that "
                "keeps it to itself, such as an optimizer, where no member's can stand; make the "
                "object in forward, or train by ch.optim"
            )
        if self._rows and (func is Tensor.backward or _is_of_leaf(func, args, self._rows)):
            raise NeedsLeaves
        if func in _HOOKING:
            self.hooks = True
            hook = args[1] if len(args) > 1 else (kwargs or {})["hook"]
            return func(args[0], self.later(hook))
        return func(*args, **(kwargs or {}))


def _is_of_leaf(func: Any, args: tuple[Any, ...], rows: set[int]) -> bool:
    return func in _OF_LEAVES and id(args[0]) in rows


class OwnLeaves:
    """The leaves of all members of a group in one call.

    Nothing of the group changes before ``settle``, but what members change in place.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._after: list[tuple[nn.Parameter, int, nn.Parameter, Tensor | None]] = []

    def of(self, place: int) -> list[Tensor]:
        """A member's tensors, one a slot."""
        return [self._own(index, place) for index in range(len(self._group.slots))]

    def _own(self, index: int, place: int) -> Tensor:
        group = self._group
        stacked = group.tensors()[index]
        row = row_alone(stacked, place)
        if not group.trained[index]:
            return row
        own = nn.Parameter(row, group.still.moves(group.slots[index], stacked, place))
        grad = stacked.grad
        if grad is not None and grad.layout == torch.strided:
            own.grad = None if _is_absent(grad[place]) else grad.detach()[place].clone()
        return own

    def leave(self, place: int, leaves: Sequence[Tensor]) -> None:
        """Take note of what the call of a member left in the gradients of its leaves."""
        for stacked, leaf in zip(self._group.tensors(), leaves, strict=True):
            if isinstance(leaf, nn.Parameter) and isinstance(stacked, nn.Parameter):
                self._after.append((stacked, place, leaf, leaf.grad))
                leaf.grad = None

    def settle(self) -> None:
        """Let the stacked parameters have these gradients, and those of a later backward pass."""
        for stacked, place, leaf, grad in self._after:
            if grad is not None or stacked.grad is not None:
                _put(stacked, place, grad)
            if leaf.requires_grad:
                leaf.register_post_accumulate_grad_hook(partial(_pass_on, stacked, place))
        self._after.clear()


def _pass_on(stacked: nn.Parameter, place: int, leaf: Tensor) -> None:
    grad, leaf.grad = leaf.grad, None
    if grad is None:
        return
    if grad.requires_grad:
        raise RuntimeError(
            "members that ask for leaves of their own give gradients without a graph; "
            "take backward(create_graph=True) of a member alone, as stack[i] gives it"
        )
    known = None if stacked.grad is None else stacked.grad[place]
    _put(stacked, place, grad if known is None or _is_absent(known) else known + grad)


def _put(stacked: nn.Parameter, place: int, grad: Tensor | None) -> None:
    if stacked.grad is None:
        stacked.grad = nothing(stacked.detach())
    with torch.no_grad():
        row = stacked.grad[place]
        row.copy_(nothing(row) if grad is None else grad.to_dense() + 0.0)


def _is_absent(row: Tensor) -> bool:
    return absent(row.unsqueeze(0)) is not None
