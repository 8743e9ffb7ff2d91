"""Standard output whose reader may go away: the command goes on, and what it says is lost."""

import io
import os
import sys


class _Pipe(io.RawIOBase):
    """Writes to a file descriptor for as long as it takes; raises once where a disk does not."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._takes = descriptor, True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, content: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            if self._takes:
                return os.write(self._descriptor, content)
        except BrokenPipeError:
            self._takes = False
        except OSError:
            self._takes = False
            raise
        return len(content)


def unbroken() -> None:
    """Let ``sys.stdout`` of this process outlive its reader, as of ``| head -1`` or ``>&-``."""
    if sys.stdout is None:  # it was closed before Python started
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return
    pipe = _Pipe(sys.stdout.fileno())
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(pipe),
        encoding=sys.stdout.encoding,
        errors=sys.stdout.errors,
        line_buffering=bool(sys.stdout.line_buffering),
    )
