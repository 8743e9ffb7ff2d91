"""The mode under which every random operation draws from a key.

A draw is keyed by (seed, member, step, call): the call is the draw's place since the mode began.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from chimera.draws.counter import derive, member_keys
from chimera.draws.recompute import restoring
from chimera.draws.rewrite import REWRITES, Unwritable, switched_off
from chimera.draws.seeds import forked

_DRAWS = torch.Tag.nondeterministic_seeded


class Undrawable(Exception):
    """A random operation that cannot be drawn for several members at once."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a module's draws depend on, besides its member id.

    Attributes:
        seed: of the Stack.
        step: count of training-mode calls, or the optimizer's step.
        call: the place that the first draw takes.
    """

    seed: int
    step: int | Tensor
    call: int = 0


_override: ContextVar[Key | None] = ContextVar("chimera_randomness", default=None)


def overridden(key: Key) -> Key:
    """``key``, or the one that an enclosing ``randomness`` asks for."""
    return _override.get() or key


class _Running(threading.local):
    """The modes that are on, in each thread its own."""

    def __init__(self) -> None:
        self.modes: list[Drawing] = []


_running = _Running()
_global_generators = threading.RLock()


def draws_so_far() -> int:
    """How many random operations the enclosing mode has answered; 0 without one."""
    return _running.modes[-1].calls if _running.modes else 0


def require_draws(what: str) -> None:
    """Refuse a draw that no mode would answer, such as one that vmap does not see.

    Raises:
        Undrawable: no mode is on.
    """
    if not _running.modes:
        raise Undrawable(f"{what} draws random numbers, and no key is set")


def uncounted(members: Tensor) -> None:
    """The last draw takes no place for some members: alone they would not have made it.

    Args:
        members: which they are, bool ``[members]``.
    """
    _running.modes[-1].uncount(members)


class Drawing(TorchDispatchMode):
    """Answers random operations from keys.

    Args:
        key: seed, step and first call.
        members: the ids of the members. ``several`` says whether draws carry a member axis.
        several: with True each draw has the members on its first axis; with False there is one
            member and no axis.

    Attributes:
        calls: how many draws were answered.
        refused: what was raised. The module may have caught it: then the run does not count.
    """

    def __init__(self, key: Key, members: Sequence[int], *, several: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert several or len(members) == 1
        self._key, self._members, self._several = key, members, several
        self._keys: dict[torch.device, Tensor] = {}
        self._answering = False
        self.calls = 0
        self._uncounted: Tensor | None = None
        self.refused: Undrawable | None = None

    def __enter__(self) -> Drawing:
        _running.modes.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        _running.modes.remove(self)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(mode._answering for mode in _running.modes):  # the draw is another mode's to answer
            return func(*args, **kwargs)
        if _DRAWS not in func.tags or switched_off(func, args, kwargs):
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            return self._with_generator(func, args, kwargs)
        if _is_on_meta(func, args, kwargs):
            return func(*args, **kwargs)
        call = self._place()
        self.calls += 1
        rewrite = REWRITES.get(func)
        if rewrite is not None:
            try:
                keys = self._keys_on(_device_of(args, kwargs))
                call = call.to(keys.device) if isinstance(call, Tensor) else call
                keys = derive(keys, self._key.step, call)
                return rewrite(keys, self._several, args, kwargs)
            except Unwritable as error:
                self._refuse(f"{func} draws without a member axis: {error}")
        if self._several:
            self._refuse(f"{func} hides its draws")
        seed = derive(self._keys_on(torch.device("cpu")), self._key.step, call)
        self._answering = True
        try:
            with _global_generators, forked(int(seed[0]) & (2**63 - 1)):
                return func(*args, **kwargs)
        finally:
            self._answering = False

    def _with_generator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._several:
            self._refuse(f"{func} draws from a generator of the module's own")
        return func(*args, **kwargs)

    def _place(self) -> int | Tensor:
        """The place of the next draw, or one a member ``[members]``."""
        place = self._key.call + self.calls
        return place if self._uncounted is None else place - self._uncounted

    def uncount(self, members: Tensor) -> None:
        """The last draw takes no place for those of ``members``, bool ``[members]``."""
        more = members.long()
        self._uncounted = more if self._uncounted is None else self._uncounted + more

    def again(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` for a later call, which draws what it would draw now."""
        key, members = replace(self._key, call=self._key.call + self.calls), self._members
        uncounted = self._uncounted

        def run(*args: Any, **kwargs: Any) -> Any:
            if self in _running.modes:
                return function(*args, **kwargs)
            with Drawing(key, members, several=self._several) as drawing:
                drawing._uncounted = uncounted
                return function(*args, **kwargs)

        return run

    def _refuse(self, why: str) -> NoReturn:
        self.refused = Undrawable(why)
        raise self.refused

    def _keys_on(self, device: torch.device) -> Tensor:
        if device not in self._keys:
            self._keys[device] = member_keys(self._key.seed, self._members, device)
        return self._keys[device]


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    for arg in args:
        if isinstance(arg, Tensor):
            return arg.device
    return torch.device(kwargs.get("device") or "cpu")


def _is_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return _device_of(args, kwargs).type == "meta"


@contextmanager
def randomness(*, seed: int = 0, member: int = 0, step: int = 0, call: int = 0) -> Iterator[None]:
    """Give what runs inside the draws of one member of a Stack.

    A plain module called inside draws what member ``member`` of a ``Stack(..., seed=seed)`` draws
    at ``step``: the count of training-mode calls before it, or of the optimizer's steps inside
    ``train_step`` and ``fit``. A Stack called inside uses ``seed``, ``step`` and ``call`` for all
    of its members; ``member`` then says nothing.

    Args:
        seed: the Stack's seed.
        member: the member's id.
        step: the step.
        call: the place of the first draw in the call, counted from 0.

    Raises:
        TypeError: an argument is no integer.
        ValueError: ``member``, ``step`` or ``call`` is negative.
    """
    for name, value in {"seed": seed, "member": member, "step": step, "call": call}.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        if value < 0 and name != "seed":
            raise ValueError(f"{name} must be 0 or more, got {value}")
    key = Key(seed, step, call)
    token = _override.set(key)
    try:
        with Drawing(key, [member], several=False) as drawing, restoring(drawing.again):
            yield
    finally:
        _override.reset(token)


def next_evaluation(key: Key, count: int) -> Key:
    """The key of the ``count``-th evaluation-mode call at a step: its draws stand apart."""
    return replace(key, call=(count + 1) << 32)
