"""Checkpoints written beside the training: one thread, one checkpoint at a time.

What the writing raises is raised in the training, at the next look; nothing is lost in silence.
"""

import threading
from collections.abc import Callable


class Writer:
    """Runs one writing at a time in a thread of its own."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a writing is on its way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, write: Callable[[], None]) -> None:
        """Run ``write`` in a thread, once what is on its way is done.

        Raises what the last writing raised.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raise what a writing raised, once."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait until nothing is on its way; raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # noqa: BLE001  raised again where the training looks
            self._error = error
