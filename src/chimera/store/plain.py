"""Reading files that cannot be trusted: only plain ones, and never more than they may hold.

A link, a pipe, a device or a directory in a file's place is refused before it is opened for
reading; the size is looked at before a byte is read. JSON is read strictly: no name twice, no
number that JSON has not.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from chimera.store.atomic import kind_of
from chimera.store.errors import CheckpointError

_BLOCK = 1 << 20
_NOTHING_FOLLOWED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def read_plain(path: Path, most: int) -> bytes:
    """The content of a plain file of at most ``most`` bytes.

    Raises CheckpointError where it is missing, larger, no plain file, or cannot be read.
    """
    with _opened(path) as (file, size):
        if size > most:
            raise CheckpointError(f"{path}: has {size:,} bytes, expected at most {most:,}")
        return file.read(size)


def sha256_of(path: Path, size: int | None = None) -> str:
    """The SHA-256 of a plain file, which must have ``size`` bytes where that is given.

    Raises CheckpointError where it is missing, of another size, no plain file, or cannot be read.
    """
    digest = hashlib.sha256()
    with _opened(path) as (file, found):
        if size is not None and found != size:
            raise CheckpointError(f"{path}: has {found:,} bytes, expected {size:,}")
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path, most: int) -> Any:
    """What the JSON in a plain file of at most ``most`` bytes says.

    Raises CheckpointError as `read_plain` does, and where it is no strict JSON.
    """
    return parsed_json(path, read_plain(path, most))


def parsed_json(path: Path, content: bytes) -> Any:
    """What ``content``, of the file ``path``, says as strict JSON; else a CheckpointError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise CheckpointError(f"{path}: holds a name twice in one table")
        return found

    def refuse(name: str) -> NoReturn:
        raise CheckpointError(f"{path}: holds {name}, which is not JSON")

    try:
        return json.loads(content.decode(), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no JSON: {error}") from error


def check_plain(path: Path) -> None:
    """Raise CheckpointError where ``path`` is there and is something other than a plain file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: is {kind_of(mode)}, expected a plain file")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    try:
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{path}: is {kind_of(mode)}, expected a plain file")
        descriptor = os.open(path, os.O_RDONLY | _NOTHING_FOLLOWED)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(
                    f"{path}: is {kind_of(status.st_mode)}, expected a plain file"
                )
            yield file, status.st_size
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
