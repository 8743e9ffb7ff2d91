"""The processes that this one started and that still run, as the kernel or ``ps`` tells."""

import os
import signal
import subprocess
from collections.abc import Collection
from contextlib import suppress

from chimera.scale.kernel import PARENT, STATE, stat_of


def children() -> list[int]:
    """The ids of the processes whose parent is this one; those that have ended are left out."""
    own = os.getpid()
    return [pid for pid, parent, state in _processes() if parent == own and state not in "ZX"]


def kill_children(since: Collection[int] = ()) -> None:
    """End them at once, each with the session that it leads, where it leads one.

    Args:
        since: those that were there before, which are left alone.
    """
    for pid in set(children()).difference(since):
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)


def _processes() -> list[tuple[int, int, str]]:
    """Process id, that of the parent, and the first letter of the state."""
    if not os.path.isdir("/proc/self"):
        said = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,state="], capture_output=True, text=True, check=True
        )
        rows = (line.split() for line in said.stdout.splitlines())
        return [(int(pid), int(parent), state[0]) for pid, parent, state in rows]
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        stat = stat_of(name)
        if stat is not None:
            found.append((int(name), int(stat[PARENT]), stat[STATE]))
    return found
