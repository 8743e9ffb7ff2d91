"""Calls of compiled functions that run as Python.

Contract: how torch compiles is of the whole process. It is as it was when the last thread has left,
in whatever order threads come and go.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

_lock = Lock()
_inside = 0
_stance = ExitStack()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled functions and modules as Python, where any can have been compiled."""
    global _inside
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with _lock:
        if not _inside:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _stance.close()
