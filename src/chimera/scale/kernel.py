"""What Linux says of a process or a thread under ``/proc``."""

from pathlib import Path

STATE, PARENT, START = 0, 1, 19
"""Which field behind the name is the state, the parent's id, the time of the start (proc(5))."""


def stat_of(place: str) -> list[str] | None:
    """The fields behind the name, which may hold anything; None where there is none (any more).

    Args:
        place: below ``/proc``: a process id, or ``self/task/<thread id>``.
    """
    try:
        return Path("/proc", place, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
