"""What ``ch.summary`` returns: the figures, and every way of showing them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from chimera.store.atomic import write_atomic
from chimera.summary.figures import Figures
from chimera.summary.html import page
from chimera.summary.markdown import markdown
from chimera.summary.record import recorded
from chimera.summary.text import lines, plain
from chimera.summary.values import Values


@dataclass(frozen=True)
class Summary(Figures):
    """A network as a tree, from the model down to its neurons.

    ``str()`` is the tree in 80 columns; ``rich.print`` shows it in colour and in the width of the
    terminal, unless ``NO_COLOR`` is set.

    Attributes:
        root: the node of the network, its children below it.
        sizes: the sizes that stood for free axes; figures that depend on them are for these.
        measured: whether times were measured.
    """

    def to_dict(self) -> dict[str, Any]:
        """The tree as nested dicts, lists, strings and numbers, ready for ``json``."""
        return recorded(self)

    def to_markdown(self) -> str:
        """The tree as a Markdown table, findings below it."""
        return markdown(self)

    def to_html(self, path: str | Path, bins: int = 32) -> Path:
        """Write one HTML file that needs nothing else, and return its path.

        In it the tree folds and unfolds, the flow of the data can be zoomed, and each block shows
        its shapes, figures, findings and the distribution of its parameters, down to neurons.

        Args:
            path: the file to write; one that is there is replaced.
            bins: how many bars a histogram has.

        Raises:
            ValueError: ``bins`` is below 2.
            OSError: the file cannot be written.
        """
        if bins < 2:
            raise ValueError(f"summary: bins must be 2 or more; got {bins}")
        file = Path(path)
        write_atomic(file, page(self, Values(self.net, bins)))
        return file

    def __str__(self) -> str:
        return plain(self, 80)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from lines(self, options.max_width)
