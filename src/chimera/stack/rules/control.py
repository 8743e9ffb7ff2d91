"""``While`` with a member axis: all members turn together, those that are done are masked.

Contract: equals the members' own loops. A member that is done keeps its state and its buffers;
the body then computes on another member's state in its place, whose result and gradient are
dropped, so that no overflow of a state that the member never had reaches its gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chimera.blocks import While
from chimera.decide.split import per_member, versions
from chimera.draws.mode import draws_so_far
from chimera.paths.bind import reached
from chimera.paths.nest import flatten
from chimera.paths.slots import standing_in
from chimera.paths.structure import own_attributes
from chimera.stack.absent import Members, reached_by
from chimera.stack.rules.table import rule
from chimera.stack.rules.together import is_together, together


class Unmaskable(Exception):
    """A body whose turns leave traces that cannot be masked."""


@rule(While, "masked turns", casts=True)
def while_masked(module: While, x: Any) -> Any:
    """``While.forward`` for members whose conditions differ."""
    active: Tensor | None = None
    with _Used(module) as used:
        for _ in range(module.limit):
            with _Masked(module, active):
                answer = module.condition(x)
            if isinstance(answer, bool):
                if not answer:
                    break
                answer = torch.ones((), dtype=torch.bool)
            holds = answer.reshape(()).bool()
            active = holds if active is None else active & holds
            turning = per_member(active)
            if not any(turning):
                break
            used.add(turning)
            x = _turn(module, x, active)
    return x


class _Used:
    """Leaves members that take no turn out of the gradients of what the turns use.

    Args:
        module: the loop.
    """

    def __init__(self, module: While) -> None:
        steps = [module, *reached(module.body)]
        self._modules = list(dict.fromkeys(inner for step in steps for inner in step.modules()))
        self._members = Members()
        self._known = False

    def __enter__(self) -> _Used:
        own = {id(p): p for m in self._modules for p in m.parameters(recurse=False)}
        marked = {
            number: together(_reached_by, parameter, self._members)
            for number, parameter in own.items()
            if is_together(parameter)
        }
        self._standing = standing_in(self._modules, marked)
        self._standing.__enter__()
        return self

    def add(self, turning: list[bool]) -> None:
        """Members take a turn; the first says all, since none begins later."""
        if not self._known:
            self._known = True
            self._members.used = torch.tensor(turning) if len(turning) > 1 else None

    def __exit__(self, *error: Any) -> None:
        self._standing.__exit__(*error)


def _reached_by(size: int, parameter: Tensor, members: Members) -> Tensor:
    return reached_by(parameter, members) if parameter.requires_grad else parameter


def _turn(module: While, x: Any, active: Tensor) -> Any:
    leaves, shape = flatten(x)
    borrowed = [
        torch.where(active, leaf.clone(), _borrow(leaf.detach(), active))
        if isinstance(leaf, Tensor)
        else leaf
        for leaf in leaves
    ]
    with _Masked(module, active):
        after, after_shape = flatten(module.body(shape.rebuild(borrowed)))
    if after_shape != shape:
        raise Unmaskable("the body of While gives another nesting than it takes")
    return shape.rebuild(
        [_chosen(active, new, old) for new, old in zip(after, leaves, strict=True)]
    )


def _chosen(active: Tensor, new: Any, old: Any) -> Any:
    if isinstance(new, Tensor) and isinstance(old, Tensor):
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise Unmaskable("the body of While gives another shape or dtype than it takes")
        return torch.where(active, new, old)
    if type(new) is not type(old) or (new is not old and new != old):
        raise Unmaskable("the body of While changes a value that is no tensor")
    return old


class _Masked:
    """Lets a turn write to the buffers of active members, and to nothing else.

    Args:
        module: whose condition or body runs.
        active: which members take the turn; None for all.
    """

    def __init__(self, module: While, active: Tensor | None) -> None:
        steps = [module, *reached(module.condition), *reached(module.body)]
        self._modules = list(dict.fromkeys(inner for step in steps for inner in step.modules()))
        self._active = active

    def __enter__(self) -> None:
        self._draws = draws_so_far()
        self._attributes = [own_attributes(module) for module in self._modules]
        self._parameters = [p for m in self._modules for p in m.parameters(recurse=False)]
        self._versions = versions(self._parameters)
        self._buffers = [dict(module.named_buffers(recurse=False)) for module in self._modules]
        if self._active is not None:
            copies = {id(t): t.clone() for buffers in self._buffers for t in buffers.values()}
            self._set([{k: copies[id(t)] for k, t in own.items()} for own in self._buffers])

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            return
        if draws_so_far() != self._draws:
            raise Unmaskable("the turns of While draw random numbers")
        if versions(self._parameters) != self._versions:
            raise Unmaskable("the turns of While change parameters")
        for module, before in zip(self._modules, self._attributes, strict=True):
            now = own_attributes(module)
            if now.keys() != before.keys() or any(now[key] is not before[key] for key in now):
                raise Unmaskable("the turns of While write attributes")
        if self._active is not None:
            self._mask(self._active)

    def _mask(self, active: Tensor) -> None:
        masked: dict[int, Tensor] = {}
        new = [dict(module.named_buffers(recurse=False)) for module in self._modules]
        for now, before in zip(new, self._buffers, strict=True):
            for name, old in before.items():
                buffer = now.get(name)
                if buffer is None or now.keys() != before.keys() or buffer.shape != old.shape:
                    raise Unmaskable("the turns of While register buffers, or shape them anew")
                if id(buffer) not in masked:
                    masked[id(buffer)] = torch.where(active, buffer, old)
        self._set([{key: masked[id(tensor)] for key, tensor in now.items()} for now in new])

    def _set(self, buffers: list[dict[str, Tensor]]) -> None:
        for module, own in zip(self._modules, buffers, strict=True):
            for name, tensor in own.items():
                setattr(module, name, tensor)


class _Borrow(torch.autograd.Function):
    """The state of an active member, for every member."""

    @staticmethod
    def forward(x: Tensor, active: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, active: Tensor) -> tuple[Tensor, int]:
        size = info.batch_size
        x = x.movedim(in_dims[0], 0) if in_dims[0] is not None else x.expand(size, *x.shape)
        if in_dims[1] is None:
            return x.clone(), 0
        lender = active.movedim(in_dims[1], 0).to(torch.int64).argmax()
        return x.index_select(0, lender.expand(size)), 0


def _borrow(x: Tensor, active: Tensor) -> Tensor:
    borrowed: Tensor = _Borrow.apply(x, active)  # type: ignore[no-untyped-call]
    return borrowed
