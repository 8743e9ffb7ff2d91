"""One thread at a time: members run in places that a stack has once."""

from __future__ import annotations

import threading
from typing import Any


class Turn:
    """A lock that its thread may take again; a copy, or what a pickle gives, is a new one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __deepcopy__(self, memo: dict[int, Any]) -> Turn:
        return Turn()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()
