"""The other processes of a run: who they are, and whether the kernel still has them."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chimera.scale.kernel import START, STATE, stat_of


@dataclass(frozen=True)
class Peer:
    """A process that is one rank of a run.

    Attributes:
        rank: its number.
        host: the name of its machine.
        place: of its machine and process namespace; processes of one place can ask for each other.
        pid: its process id there.
        born: when the kernel started it, which tells it from a later process of the same id.
    """

    rank: int
    host: str
    place: str
    pid: int
    born: str

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} of host {self.host!r})"

    @classmethod
    def own(cls, rank: int) -> "Peer":
        """This process."""
        return cls(rank, socket.gethostname(), _place(), os.getpid(), _born(os.getpid()) or "")

    @classmethod
    def told(cls, said: dict[str, Any]) -> "Peer":
        """What another process said of itself."""
        return cls(**said)

    def is_gone(self) -> bool:
        """Whether the process has ended; False where that cannot be asked from here."""
        return self.place == _place() and _born(self.pid) != self.born


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux: the host alone
        return socket.gethostname()


def _born(pid: int) -> str | None:
    """When a process of this place was started; None where it has ended."""
    stat = stat_of(str(pid))
    if stat is not None:
        return None if stat[STATE] in "ZX" else stat[START]
    if os.path.isdir("/proc/self"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
