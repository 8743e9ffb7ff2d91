"""SIGTERM and Ctrl-C while a run is written down: the step is finished, and a checkpoint written.

The first signal is remembered, and raised where the run asks (`Signals.check`); the second ends
the process at once, with the exit code that the shell knows for it.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_WATCHED = (signal.SIGTERM, signal.SIGINT)
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
_SHOW_CURSOR = b"\x1b[?25h"


class Asked(BaseException):
    """A signal asked the run to stop; raised between steps."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupted(KeyboardInterrupt):
    """A run that Ctrl-C stopped, and that can go on; ``code`` is the exit code."""

    code = 128 + signal.SIGINT


class Terminated(SystemExit):
    """A run that SIGTERM stopped, and that can go on; ``code`` is the exit code."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 128 + signal.SIGTERM

    def __str__(self) -> str:
        return str(self.args[0])


def stopped(number: int, message: str) -> BaseException:
    """The exception that ends a run which a signal stopped."""
    return Terminated(message) if number == signal.SIGTERM else Interrupted(message)


class Signals:
    """Watches SIGTERM and SIGINT inside its block, where nobody else does.

    Signals reach the main thread alone; in another thread nothing is watched. A handler of the
    user's own, or a signal that is ignored, stays so.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def number(self) -> int | None:
        """The signal that came; None where none did."""
        return self._asked

    def check(self) -> None:
        """Raise `Asked` when a signal came."""
        if self._asked is not None:
            raise Asked(self._asked)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _WATCHED:
                if signal.getsignal(number) in _DEFAULTS:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None:
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)
            os._exit(128 + number)
        self._asked = number
