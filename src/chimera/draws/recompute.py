"""Activation checkpointing: what is computed again in the backward pass.

``torch.utils.checkpoint`` calls a part of a module a second time when gradients flow, long after
the key of its draws, and the tensors of a member of a Stack, have gone. In the context of
``restoring`` the function that it keeps for that is one that puts them back for its time. What the
second call of a member writes stays, as alone: attributes, and the statistics of a batch norm. The
two private names of torch that take the function stand here
alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import checkpoint as torchs

# Since torch 2.15 the second is a shim that torch itself passes by.
_GENERATOR = next(
    name
    for name in (
        "_checkpoint_without_reentrant_generator_impl",
        "_checkpoint_without_reentrant_generator",
    )
    if hasattr(torchs, name)
)
_NAMES = (_GENERATOR, "CheckpointFunction")

Function = Callable[..., Any]
Restoring = Callable[[Function], Function]
"""From a function to one that runs it with the member as it was when this was called."""


class _Never(Exception):
    """Never raised."""


class _Running(threading.local):
    """What the members that run in this thread do to functions that are kept."""

    def __init__(self) -> None:
        self.restoring: list[Restoring] = []


_running = _Running()
_lock = threading.Lock()
_inside = 0
_torchs: dict[str, Any] = {}


@contextmanager
def restoring(keep: Restoring) -> Iterator[None]:
    """Let ``keep`` make what checkpointing keeps of a function, in this thread, for some time."""
    _install()
    _running.restoring.append(keep)
    try:
        yield
    finally:
        _running.restoring.pop()
        _remove()


# What torch raises inside a second call as soon as it has what it needs.
Stopped: type[BaseException] = getattr(torchs, "_StopRecomputationError", _Never)


def in_backward() -> bool:
    """Whether a backward pass is going on in this thread: what runs in it was run before."""
    task = getattr(torch._C, "_current_graph_task_id", None)
    return task is not None and task() != -1


def refused(function: Function) -> Function:
    """Refuse checkpointing where tensors are of many members at once.

    Raises:
        Recomputed: always.
    """
    raise Recomputed("activation checkpointing computes again outside of torch.vmap")


class Recomputed(NotImplementedError):
    """A call that is to be made again in the backward pass, where there is no vmap."""


def _kept(function: Function) -> Function:
    return _running.restoring[-1](function) if _running.restoring else function


class _Reentrant:
    """In the place of torch's ``CheckpointFunction``."""

    @staticmethod
    def apply(function: Function, *rest: Any) -> Any:
        return _torchs["CheckpointFunction"].apply(_kept(function), *rest)


def _generator(function: Function, *rest: Any, **named: Any) -> Any:
    return _torchs[_GENERATOR](_kept(function), *rest, **named)


def _install() -> None:
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            ours = (_generator, _Reentrant)
            for name, own in zip(_NAMES, ours, strict=True):
                _torchs[name] = getattr(torchs, name)
                setattr(torchs, name, own)


def _remove() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            for name in _NAMES:
                setattr(torchs, name, _torchs[name])
