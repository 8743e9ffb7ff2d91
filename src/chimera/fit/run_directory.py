"""What a run writes with ``out=``, each file whole or not at all.

``config.json``         what the run was told, and a hash of its data
``environment.json``    versions, platform, device, threads
``metrics.jsonl``       one whole line an epoch: for each figure the list over members
``checkpoints/<step>/`` where the run stood, as ``checkpoint.py`` writes it
``members.csv``         one row a member: group, hyper-parameters, final figures
``members.safetensors`` the stack, as ``ch.save`` writes it: ``groups.<g>.<path>``, members first;
                        written last, so that it says that the run is finished

JSON has no NaN: a figure that is not finite is null there, and nan or inf in ``members.csv``.
One process at a time writes to the directory, and holds its lock from the first moment on.
"""

import csv
import io
import json
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from chimera.fit.result import Result, Row
from chimera.paths.arguments import as_flag
from chimera.paths.notice import ChimeraWarning
from chimera.stack import save
from chimera.store.atomic import discard, is_leftover, write_atomic
from chimera.store.claim import claim_empty
from chimera.store.errors import CheckpointError
from chimera.store.folders import Folders
from chimera.store.lines import JsonLines, as_line
from chimera.store.lock import NAME as LOCK
from chimera.store.lock import Lock
from chimera.store.plain import check_plain, read_json

Resume = bool | Literal["auto"]

_FILES = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "members.csv",
    "members.safetensors",
)
_MOST = 1 << 30


class RunDirectory:
    """The directory of one run, locked from here on until `close`.

    Args:
        out: the directory.
        resume: False for a new run, which needs a new or empty directory; True for one that was
            started; ``"auto"`` for whichever it is.
        force_unlock: take over a lock that another host left.

    Attributes:
        path: the directory.
        config: of the run that was started here; None for a new one.
        finished: whether that run is finished.

    Raises:
        ValueError: ``out`` is a file, holds something else, cannot be written to, or holds a run
            where a new one was to start, or none where one was to go on.
        LockedError: another process holds it.
        CheckpointError: its ``config.json`` is damaged, or a file of the run is no plain one.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        resume: Resume = False,
        force_unlock: bool = False,
    ) -> None:
        if not isinstance(out, str | os.PathLike):
            raise TypeError(f"out must be the path of a directory, got {out!r:.60}")
        if not os.fspath(out):
            raise ValueError("out is empty, expected the path of a directory ('.' is this one)")
        force_unlock = as_flag("force_unlock", force_unlock)
        self.path = Path(out)
        self._lines: JsonLines | None = None
        if "config.json" not in _names(self.path):
            _check_holds(self.path, resume)
        self._made = _missing(self.path)
        try:
            claim_empty(self.path, ignore={LOCK, *_names(self.path)})
            self._lock = Lock(self.path, force_unlock)
        except BaseException:
            self._unmake()
            raise
        try:
            _check_holds(self.path, resume)
            for name in _FILES:
                check_plain(self.path / name)
            there = os.path.lexists(self.path / "config.json")
            self.config: Row | None = _config(self.path / "config.json") if there else None
            self.finished = os.path.lexists(self.path / "members.safetensors")
            self.run: str = secrets.token_hex(8) if self.config is None else self.config["run"]
            self.checkpoints = Folders(self.path / "checkpoints", self.run)
            for name in filter(is_leftover, os.listdir(self.path)):
                discard(self.path / name)
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> Row:
        """Where the run was started; empty where nothing is known of that."""
        path = self.path / "environment.json"
        said = read_json(path, _MOST) if os.path.lexists(path) else {}
        if not isinstance(said, dict):
            raise CheckpointError(f"{path}: is no table")
        return said

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> Row:
        """Writes what is known before training; gives the config with the run's id."""
        self.config = {"run": self.run, **config}
        self._write("config", self.config)
        self._write("environment", environment)
        self._made = []
        return self.config

    def go_on(self, environment: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Says what differs from how the run was started: its place, and the members' weights."""
        if not os.path.lexists(self.path / "environment.json"):
            self._write("environment", environment)
        before = {"ranks": 1} | self.environment
        differ = [
            f"{key} was {before.get(key)!r} and is {environment[key]!r}"
            for key in ("packages", "processor", "threads", "device", "ranks")
            if before.get(key) != environment[key]
        ]
        if differ:
            warnings.warn(
                f"the run goes on elsewhere, so its last bits may differ: {'; '.join(differ)}",
                ChimeraWarning,
                stacklevel=4,
            )
        assert self.config is not None
        if self.config.get("weights_sha256", told["weights_sha256"]) != told["weights_sha256"]:
            warnings.warn(
                "resume: these members come with other weights than those that the run was started "
                "with (another seed, or none); they take on those of its checkpoint",
                ChimeraWarning,
                stacklevel=4,
            )

    def open_metrics(self, records: Sequence[Row]) -> None:
        """Lets ``metrics.jsonl`` hold these epochs alone, ready for more."""
        path = self.path / "metrics.jsonl"
        write_atomic(path, "".join(map(as_line, records)))
        self._lines = JsonLines(path)

    def add_epoch(self, record: Row) -> None:
        """Appends one epoch's line."""
        assert self._lines is not None
        self._lines.append(record)

    def finish(self, result: Result) -> None:
        """Writes the members' table and weights."""
        assert self._lines is not None
        self._lines.close()
        write_atomic(self.path / "members.csv", as_csv(result.table))
        save(result.stack, self.path / "members.safetensors")
        self.finished = True

    def close(self) -> None:
        """Gives the lock back, wherever the run stopped; a second call does nothing."""
        if self._lines is not None:
            self._lines.close()
        self._lock.release()
        self._unmake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomic(self.path / f"{name}.json", json.dumps(content, indent=2) + "\n")

    def _unmake(self) -> None:
        """Removes the directories that were made for a run that never started."""
        for directory in self._made:
            try:
                directory.rmdir()
            except OSError:  # it holds something meanwhile, or is gone
                return
        self._made = []


def _check_holds(path: Path, resume: Resume) -> None:
    """Raise ValueError where the directory is not as ``resume`` wants it."""
    names = _names(path)
    if "config.json" in names:
        if resume is False and "members.safetensors" not in names:
            raise ValueError(
                f"out: {str(path)!r} holds a run that is not finished: resume=True "
                f"(chimera fit --resume {path}) goes on with it; a new run needs a new directory"
            )
        if resume is False:
            claim_empty(path, ignore={LOCK})
        return
    if resume is True:
        what = "is not there" if not path.exists() else "holds no run that was started"
        raise ValueError(
            f"resume: {str(path)!r} {what}; without resume, out={str(path)!r} (--out {path}) "
            "starts one there"
        )
    if names:
        claim_empty(path, ignore={LOCK})


def _names(path: Path) -> list[str]:
    """What is in a directory, leftovers of ours left out."""
    if not path.is_dir():
        return []
    return [name for name in os.listdir(path) if not (is_leftover(name) or name == LOCK)]


def _missing(path: Path) -> list[Path]:
    """The directories that must be made for ``path``, the innermost first."""
    return [place for place in (path, *path.parents) if not place.exists()]


def _config(path: Path) -> Row:
    said = read_json(path, _MOST)
    if not (isinstance(said, dict) and isinstance(said.get("run"), str)):
        raise CheckpointError(f"{path}: is no config of a run")
    return said


def as_csv(table: list[Row]) -> str:
    """The table as CSV, one line a member below the names of the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
