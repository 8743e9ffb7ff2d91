"""Files that appear whole or not at all.

A file is written beside its target, in the same directory, flushed to the disk, and renamed over
the target; then the directory is flushed. A failure, at whatever moment, leaves the target as it
was and nothing beside it. Only a killed process leaves something: a name that `is_leftover` knows.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SUFFIX = ".chimera-tmp"


def is_leftover(name: str) -> bool:
    """Whether ``name`` is one that an unfinished write of ours gives to what it writes."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path``: the whole of it, or nothing.

    Raises ValueError where ``path`` is something other than a plain file, OSError where the disk
    refuses (with a note of the bytes needed and free).
    """
    content = data.encode() if isinstance(data, str) else data
    with staged(path, needs=len(content)) as beside:
        beside.write_bytes(content)


@contextmanager
def staged(path: str | os.PathLike[str], needs: int | None = None) -> Iterator[Path]:
    """A fresh path to write one file to; when the block ends well the file becomes ``path``.

    When the block raises, ``path`` is left as it was. ``needs`` is the size in bytes that the file
    will have, for the note that an OSError gets.

    Raises ValueError where ``path`` is something other than a plain file or its directory does not
    exist, OSError where the disk refuses.
    """
    target = Path(path)
    _check_replaceable(target)
    room = target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}{_SUFFIX}"
    with noting_space(target, target.parent, needs):
        room.mkdir()
        try:
            beside = room / "file"
            yield beside
            os.chmod(beside, _default_mode(room))
            flush(beside)
            os.replace(beside, target)
        finally:
            shutil.rmtree(room)
        flush(target.parent)


@contextmanager
def noting_space(target: Path, directory: Path, needs: int | None = None) -> Iterator[None]:
    """Give an OSError raised inside a note: what was written, the bytes needed and those free.

    An error that has such a note already keeps it alone.
    """
    try:
        yield
    except OSError as error:
        if not any(note.startswith("while writing ") for note in getattr(error, "__notes__", ())):
            error.add_note(f"while writing {target}{_space(directory, needs)}")
        raise


def flush(path: Path) -> None:
    """Flush a file or directory to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot flush a directory and say so with EINVAL.
        if not (error.errno == errno.EINVAL and stat.S_ISDIR(os.fstat(descriptor).st_mode)):
            raise
    finally:
        os.close(descriptor)


def _check_replaceable(target: Path) -> None:
    if not target.parent.is_dir():
        raise ValueError(f"path: {str(target)!r}: the directory {target.parent} does not exist")
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"path: {str(target)!r} is {kind_of(mode)}, expected a new name or a plain file"
        )


def discard(path: Path) -> None:
    """Remove a file or a directory with all that is in it; links are not followed."""
    try:
        is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if is_directory:
        shutil.rmtree(path)
    else:
        path.unlink()


def kind_of(mode: int) -> str:
    """What a file is, in words, from its ``st_mode``."""
    kinds = {
        stat.S_IFREG: "a plain file",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no plain file")


def _default_mode(room: Path) -> int:
    """The permissions that the process gives to new files (its umask applied)."""
    probe = room / "mode"
    probe.touch()
    return stat.S_IMODE(probe.stat().st_mode)


def _space(directory: Path, needs: int | None) -> str:
    needed = f": {needs:,} bytes needed" if needs is not None else ""
    try:
        free = shutil.disk_usage(directory).free
    except OSError:
        return needed
    return f"{needed or ':'} {'and ' if needed else ''}{free:,} bytes free"
