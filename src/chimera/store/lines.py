"""Files of JSON lines that grow by whole lines."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chimera.store.atomic import noting_space


class JsonLines:
    """A file to which records are appended, one line of strict JSON each.

    A line is in the file whole and flushed when `append` returns; when `append` raises, the file
    ends where it ended before. Numbers that JSON has not (NaN, Infinity) are written as ``null``.
    A last line that was left half written by a killed process is cut off when the file is opened.

    Raises ValueError where ``path`` is something other than a plain file or its directory does not
    exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise ValueError(f"path: the directory {self.path.parent} does not exist")
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise ValueError(f"path: {self.path} is not a plain file")
        self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 - closed by close()
        self._cut_half_line()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write ``record`` as one line and flush it to the disk.

        Raises TypeError or ValueError where it holds what JSON cannot say, OSError where the disk
        refuses.
        """
        line = as_line(record).encode()
        end = self._file.seek(0, os.SEEK_END)
        with noting_space(self.path, self.path.parent, len(line)):
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:]) or 0
                os.fsync(self._file.fileno())
            except BaseException:
                self._file.truncate(end)
                raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _cut_half_line(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            self._file.seek(start)
            block = self._file.read(end - start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        self._file.truncate(end)


def as_line(record: Mapping[str, Any]) -> str:
    """``record`` as one line of strict JSON; numbers that JSON has not are ``null``."""
    return json.dumps(_finite(record), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
