"""Letting gloo's threads end their work before Python ends.

They drop the tensors of a collective under the interpreter's lock, after the collective has
returned. One that asks for the lock when Python has ended aborts the process (torch 2.13), and a
network that is spread keeps those threads alive after its group is destroyed. So the end of Python
waits for them: while this thread sleeps they get the lock, and when none of them runs or waits for
a core their work is done.
"""

import atexit
import os
import threading
import time
from functools import cache

from chimera.scale.kernel import STATE, stat_of

_LEAST, _MOST = 0.05, 2.0
"""Seconds. Threads that spin at a barrier of OpenMP never sleep for long, so there is an end."""


@cache
def settle_at_exit() -> None:
    """Wait at the end of Python, before anything that was registered earlier."""
    atexit.register(settle)


def settle() -> None:
    """Wait until no other thread of this process has run for a while, a few seconds at most."""
    deadline = time.monotonic() + _MOST
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:
        time.sleep(_LEAST)
        quiet = 0 if _others_run() else quiet + 1


def _others_run() -> bool:
    """Whether another thread runs or waits for a core; False where that cannot be asked."""
    own = str(threading.get_native_id())
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        return False
    stats = [stat_of(f"self/task/{thread}") for thread in threads if thread != own]
    return any(stat is not None and stat[STATE] == "R" for stat in stats)
