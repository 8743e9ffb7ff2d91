"""What a run on trial may not do: go on without an end, or end the process.

A loop that real data would end (``while error > tolerance``) may have no end on random numbers.
Under ``Ending`` a run that asks ``MOST`` conditions or numbers of data, or that calls torch when
``LONGEST`` seconds are over, raises ``DidNotEnd``. Under ``not_exiting`` a ``sys.exit()`` raises
``Exited``; ``KeyboardInterrupt`` passes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode

from chimera.decide.explore import CONDITIONS, NUMBERS, DidNotEnd, hide, where

hide(__file__)

MOST = 2_000
"""The most conditions or numbers of data that a run on trial asks."""
LONGEST = 60.0
"""Seconds after which a run on trial is ended."""


class Ending(TorchFunctionMode):
    """The mode of one run; it is to be entered last, so that it sees the program's calls alone."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0
        self._until = time.monotonic() + LONGEST

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in CONDITIONS or func in NUMBERS:
            self._asked += 1
        if self._asked > MOST:
            raise DidNotEnd(f"{MOST:,} conditions or numbers of data", *where())
        if time.monotonic() > self._until:
            raise DidNotEnd(f"{LONGEST:g} s of calls of torch", *where())
        return func(*args, **(kwargs or {}))


class Exited(RuntimeError):
    """What ran on trial would have ended the process."""


@contextmanager
def not_exiting() -> Iterator[None]:
    """A ``SystemExit`` inside becomes an ``Exited``, with the traceback that it had."""
    try:
        yield
    except SystemExit as exit_:
        told = Exited(f"it would end the process: SystemExit({exit_.code!r})")
        raise told.with_traceback(exit_.__traceback__) from exit_
