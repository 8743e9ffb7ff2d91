"""Who holds an object, and how to let go of it: dictionaries, lists, sets, caches of functions.

``take_away`` is for objects that must not be used any more. What cannot be changed, a tuple, goes
with them, and so does a dictionary or list of a cache that is empty without them.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Sequence
from functools import _lru_cache_wrapper
from types import CellType, FrameType
from typing import Any

from torch import Tensor


class Held(TypeError):
    """Something holds an object that must go, and cannot be made to let go."""


_DEPTH = 6


def first_holder(objects: Sequence[Tensor]) -> str | None:
    """What holds the first of ``objects`` that anything in Python holds, in words; not frames."""
    for one in objects:
        for holder in _holders(one, [objects]):
            if isinstance(holder, CellType):
                return "a variable of an enclosing function"
            return f"a {type(holder).__name__}"
    return None


def take_away(objects: Sequence[Tensor]) -> None:
    """Take ``objects`` out of whatever holds them, but for frames and what the caller holds.

    Raises:
        Held: by something else than a container, an attribute, a variable or a function's cache.
    """
    for one in objects:
        _let_go(one, [objects], _DEPTH)


def _holders(one: Any, besides: Sequence[Any]) -> list[Any]:
    """What refers to ``one``, but for frames and ``besides``."""
    found = gc.get_referrers(one)
    known = {id(other) for other in besides} | {id(found)}
    return [
        holder for holder in found if id(holder) not in known and not isinstance(holder, FrameType)
    ]


def _let_go(one: Any, besides: Sequence[Any], depth: int) -> None:
    holders = _holders(one, besides)
    for holder in holders:
        if depth == 0:
            raise Held(
                "forward keeps a tensor where a stack cannot reach it; keep it in an attribute of "
                f"the module. It is held by a {type(holder).__name__}"
            )
        _drop(one, holder, [*besides, holders], depth - 1)


def _drop(one: Any, holder: Any, besides: list[Any], depth: int) -> None:
    """Let ``holder`` go on without ``one``."""
    if isinstance(holder, CellType):
        holder.cell_contents = None
    elif isinstance(holder, _lru_cache_wrapper):
        holder.cache_clear()
    elif isinstance(holder, dict):
        _drop_from_dict(one, holder, besides, depth)
    elif isinstance(holder, list | deque):
        kept = [item for item in holder if item is not one]
        holder.clear()
        holder.extend(kept)
        _drop_empty(holder, besides, depth)
    elif isinstance(holder, set):
        holder.discard(one)
    elif names := [name for name, value in _attributes(holder) if value is one]:
        for name in names:
            delattr(holder, name)
    else:  # it cannot be changed: a tuple, an entry of a bounded cache
        _let_go(holder, besides, depth)


def _drop_from_dict(one: Any, holder: dict[Any, Any], besides: list[Any], depth: int) -> None:
    owners = _holders(holder, besides)
    for owner in owners:
        if isinstance(owner, _lru_cache_wrapper):
            owner.cache_clear()
    gone = [key for key, value in holder.items() if value is one]
    classes = [owner for owner in owners if isinstance(owner, type)]
    for key in gone:
        if classes:
            delattr(classes[0], key)
        else:
            del holder[key]
    _drop_empty(holder, [*besides, owners], depth)


def _drop_empty(holder: Any, besides: Sequence[Any], depth: int) -> None:
    """An entry of a cache that is empty now goes with what was in it."""
    owners = [] if len(holder) else _holders(holder, besides)
    if not owners or not all(isinstance(owner, dict | list) for owner in owners):
        return
    inner = [*besides, owners]
    if not any(_is_namespace(owner, inner) for owner in owners):
        for owner in owners:
            _drop(holder, owner, inner, depth)


def _is_namespace(owner: Any, besides: Sequence[Any]) -> bool:
    """Whether names of a file, a class or an object are in a dictionary."""
    if not isinstance(owner, dict):
        return False
    return "__builtins__" in owner or any(
        isinstance(one, type) or getattr(one, "__dict__", None) is owner
        for one in _holders(owner, besides)
    )


def _attributes(holder: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(holder, tuple | frozenset):
        return []
    names = [*getattr(holder, "__dict__", ())]
    for kind in type(holder).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [(name, getattr(holder, name)) for name in names if hasattr(holder, name)]
