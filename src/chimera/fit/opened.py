"""The directory of a run as each rank has it: rank 0 holds it and writes, the others look on."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from chimera.fit.result import Result, Row
from chimera.fit.run_directory import Resume, RunDirectory
from chimera.scale.joined import restarts
from chimera.scale.ranks import Ranks
from chimera.store import CheckpointError, Folders
from chimera.store.lock import NAME as LOCK
from chimera.store.plain import read_plain

_SECONDS = 10.0
"""A file may take a while to be seen from another machine."""


class SeenDirectory(RunDirectory):
    """The directory of a run whose rank 0 holds and writes it; this rank reads checkpoints."""

    def __init__(self, path: Path, config: Row | None, finished: bool, run: str) -> None:
        self.path, self.config, self.finished, self.run = path, config, finished, run
        self.checkpoints = Folders(path / "checkpoints", run)

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> Row:
        self.config = {"run": self.run, **config}
        return self.config

    def go_on(self, environment: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Rank 0 says what differs."""

    def open_metrics(self, records: Sequence[Row]) -> None:
        """Rank 0 writes them."""

    def add_epoch(self, record: Row) -> None:
        """Rank 0 writes it."""

    def finish(self, result: Result) -> None:
        self.finished = True

    def close(self) -> None:
        """Nothing is held."""


def opened(
    out: str | os.PathLike[str] | RunDirectory | None,
    resume: Resume,
    force_unlock: bool,
    ranks: Ranks | None,
) -> Any:
    """The run's directory, to be given back at the end; None where there is none.

    Of several ranks, rank 0 holds it, and every other makes sure that it sees the same one. When
    a launcher has started them again, a run that was begun goes on.

    Raises:
        ValueError: as RunDirectory does, or a rank does not see the directory of rank 0.
    """
    if resume not in (True, False, "auto"):
        raise ValueError(f'resume must be True, False or "auto", got {resume!r}')
    if out is None:
        if resume:
            raise ValueError("resume needs out=, the directory of the run that is to go on")
        return nullcontext()
    if isinstance(out, RunDirectory):
        return out
    if ranks is None:
        return RunDirectory(out, resume, force_unlock)
    if restarts() and resume is False:
        resume = "auto"
    if ranks.rank:
        said = ranks.exchange(None, "the run's directory")[0]
        directory: RunDirectory = SeenDirectory(
            Path(out), said["config"], said["finished"], said["run"]
        )
        sees = _sees(directory.path, said["lock"])
    else:
        directory = RunDirectory(out, resume, force_unlock)
        lock = _lock(directory.path)
        ranks.exchange(
            {
                "config": directory.config,
                "finished": directory.finished,
                "run": directory.run,
                "lock": lock,
            },
            "the run's directory",
        )
        sees = True
    try:
        blind = [rank for rank, one in enumerate(ranks.exchange(sees, "their view")) if not one]
        if blind:
            raise ValueError(
                f"out: rank {blind[0]} ({ranks.peers[blind[0]].host}) does not see the directory "
                f"{str(out)!r} of rank 0 ({ranks.peers[0].host}): all ranks need one that they "
                "share, on a file system that all machines mount"
            )
    except BaseException:
        directory.close()
        raise
    return directory


def _sees(path: Path, lock: str) -> bool:
    deadline = time.monotonic() + _SECONDS
    while _lock(path) != lock:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _lock(path: Path) -> str | None:
    """What the lock in a directory says; None where there is none."""
    try:
        return read_plain(path / LOCK, 1 << 12).decode()
    except (CheckpointError, UnicodeDecodeError):
        return None
