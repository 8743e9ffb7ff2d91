"""Attention without its fast path of inference, which has no derivative.

Inside vmap no tensor says that it requires a gradient, so the path would be taken in training.
"""

from __future__ import annotations

import threading

import torch


class _SlowAttention:
    """Switches torch's fast path off while anyone is inside, in whatever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._was = True

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._was = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.backends.mha.set_fastpath_enabled(self._was)


SLOW_ATTENTION = _SlowAttention()
