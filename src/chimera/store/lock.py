"""One writer a directory: a lock that dies with its process.

The file ``.chimera-lock`` names the holder's host and process id; whether the holder lives, the
kernel says (flock). A lock whose holder died on this host is taken over. The kernel of another host
cannot be asked, so a lock from there is honoured until somebody says that it is stale. The file is
gone when the lock is given back.
"""

import json
import os
import socket
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chimera.store.errors import LockedError

NAME = ".chimera-lock"
_MOST = 4096


class Lock:
    """The lock of a directory, held from here on until `release`.

    Args:
        directory: it exists.
        force: take over a lock that another host left.

    Raises:
        LockedError: another process holds it; the message names its host and process id.
        OSError: the directory cannot be written to.
    """

    def __init__(self, directory: Path, force: bool = False) -> None:
        self._path = directory / NAME
        self._descriptor = _held(self._path)
        try:
            holder = _holder(self._descriptor)
            host = socket.gethostname()
            if holder and holder.get("host") != host and not force:
                raise LockedError(
                    f"{directory} is locked by process {holder.get('pid')} of host "
                    f"{holder.get('host')!r}, which this host ({host!r}) cannot ask whether it is "
                    "still running; if it is not, --force-unlock (force_unlock=True) takes it over"
                )
            text = json.dumps({"host": host, "pid": os.getpid()}) + "\n"
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)
            os.fsync(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    _descriptor: int | None


def _held(path: Path) -> int:
    """A descriptor of the file that holds its flock; the file is the one that ``path`` names."""
    import fcntl  # POSIX alone has it; reading checkpoints elsewhere needs no lock

    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise LockedError(f"{path}: is no plain file, so it cannot be a lock of ours")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(descriptor) or {}
                raise LockedError(
                    f"{path.parent} is in use by process {holder.get('pid', 'unknown')} of host "
                    f"{holder.get('host', 'unknown')!r}: one run at a time writes to a directory"
                ) from None
            if is_named(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has just given it back: the next try makes a new file


def is_named(descriptor: int, path: Path) -> bool:
    """Whether ``path`` still names the file that is open as ``descriptor``."""
    try:
        named = os.lstat(path)
    except FileNotFoundError:
        return False
    own = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)


def _holder(descriptor: int) -> dict[str, Any] | None:
    """What the lock file says of its holder; None where that was never written."""
    try:
        said = json.loads(os.pread(descriptor, _MOST, 0))
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
