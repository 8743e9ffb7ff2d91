"""The progress of a run on standard error, where that is a terminal."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Epochs:
    """A bar that moves with every epoch and is gone at the end.

    Args:
        epochs: how many there will be; None where nothing reports them.
        what: what is going on.
        quiet: show nothing.
    """

    def __init__(self, epochs: int | None, what: str, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(what, total=epochs)

    def add(self, record: dict[str, Any]) -> None:
        """One epoch is done; ``record`` says which."""
        self._progress.update(self._task, completed=record["epoch"])

    def __enter__(self) -> "Epochs":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
