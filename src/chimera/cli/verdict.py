"""What an error means to the one who typed the command: a line, and an exit code."""

import contextlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from chimera.cli.mistake import Mistake, one_line

_OURS = Path(__file__).parents[1]
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


def verdict(error: BaseException) -> tuple[str, int]:
    """The line that tells ``error`` and the exit code.

    A run that a signal stopped is 130 or 143, a directory in use 3. A mistake is 2, and so is a
    ValueError or TypeError that our own code raised: that is how the library speaks of wrong
    arguments. What the user's code raised, and what the system refused, is 1; for the user's code
    the line names the place.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        notes = "".join(f"; {one_line(note)}" for note in getattr(error, "__notes__", ()))
        return (one_line(error) or "interrupted") + notes, getattr(error, "code", 130)
    if isinstance(error, Mistake):
        return one_line(error), 2
    if _is_of("chimera.store", error, "LockedError"):
        return one_line(error), 3
    if _is_of("chimera.scale.meeting", error, "PeerError"):
        return one_line(error), 1
    frames = traceback.extract_tb(error.__traceback__)
    raised_by_us = bool(frames) and _within(Path(frames[-1].filename), _OURS)
    notes = "".join(f"; {one_line(note)}" for note in getattr(error, "__notes__", ()))
    text = one_line(error)
    if isinstance(error, (ValueError, TypeError)) and raised_by_us:
        return text + notes, 2
    if isinstance(error, OSError):
        return text + notes, 1
    if raised_by_us and _is_of("chimera.store", error, "CheckpointError"):
        return text + notes, 1
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    theirs = [frame for frame in frames if _is_users(Path(frame.filename))]
    if theirs:
        frame = theirs[-1]
        return f"{frame.filename}, line {frame.lineno}, in {frame.name}: {told}{notes}", 1
    return f"{told}{notes}; --debug shows the traceback", 1


@contextlib.contextmanager
def never_ending(source: str) -> Iterator[None]:
    """Make a mistake of the network's own ``sys.exit()``, which would end the command unsaid."""
    try:
        yield
    except SystemExit as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{f.filename}, line {f.lineno}" for f in frames if _is_users(Path(f.filename))]
        where = f" at {places[-1]}" if places else ""
        raise Mistake(f"{source} ends the program{where} (SystemExit: {error.code})") from error


def _is_users(file: Path) -> bool:
    """Whether a file is the user's own: not ours, and not of a package, wherever that is."""
    if not file.is_file() or {"site-packages", "dist-packages"}.intersection(file.parts):
        return False
    return not any(_within(file, place) for place in (_OURS, *_INSTALLED))


def _within(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def _is_of(module: str, error: BaseException, name: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(error, getattr(loaded, name))
