"""A directory for a run: new or empty, and writable, before anything starts."""

import os
import secrets
from collections.abc import Container
from pathlib import Path

from chimera.store.atomic import is_leftover


def claim_empty(
    path: str | os.PathLike[str], argument: str = "out", ignore: Container[str] = ()
) -> Path:
    """The directory ``path``, made with its parents where it does not exist.

    A directory that holds only what an unfinished write of ours left behind counts as empty. That
    it can be written to is tried, with a file that is removed again.

    Args:
        path: the directory.
        argument: the name of the caller's argument, for the message.
        ignore: names that may be in it, besides.

    Raises:
        ValueError: ``path`` is no directory, holds something, or cannot be made or written to.
    """
    directory = Path(path)
    said = f"{argument}: {str(directory)!r}"
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{said} is a file, expected a new or an empty directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        inside = sorted(
            name for name in os.listdir(directory) if not is_leftover(name) and name not in ignore
        )
        if inside:
            shown = ", ".join(inside[:3]) + (", ..." if len(inside) > 3 else "")
            raise ValueError(
                f"{said} is not empty (it holds {shown}), expected a new or an empty directory"
            )
        probe = directory / f".{secrets.token_hex(8)}.chimera-tmp"
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{said} cannot be written to ({error.strerror}), expected a writable directory"
        ) from error
    return directory
