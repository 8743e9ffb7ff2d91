"""What ``ch.summary`` returns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from torch import nn

from chimera.check.finding import Finding
from chimera.summary.flow import Flow
from chimera.summary.node import Node
from chimera.summary.unit import Unit, units
from chimera.summary.values import Values


@dataclass(frozen=True)
class Summary:
    """A network as a tree, from the model down to its neurons.

    ``str()`` is the tree in 80 columns; ``rich.print`` shows it in colour and in the width of the
    terminal, unless ``NO_COLOR`` is set.

    Attributes:
        root: the node of the network, its children below it.
        sizes: the sizes that stood for free axes; figures that depend on them are for these.
        measured: whether times were measured.
    """

    root: Node
    sizes: dict[str, int]
    measured: bool
    flow: Flow = field(repr=False)
    net: nn.Module = field(repr=False)

    @property
    def parameters(self) -> int:
        """The numbers in the network's parameters, each tensor counted once."""
        return self.root.parameters

    @property
    def buffers(self) -> int:
        """The numbers in the network's buffers, each tensor counted once."""
        return self.root.buffers

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one forward call: half of what ``torch.utils.flop_counter`` counts."""
        return self.root.multiply_adds

    @property
    def activations(self) -> int:
        """Bytes that autograd keeps of one forward call for the backward pass."""
        return self.root.activations

    @property
    def findings(self) -> list[Finding]:
        """What ``ch.check`` found, in the order of the tree."""
        return [finding for node in self for finding in node.findings]

    def __iter__(self) -> Iterator[Node]:
        """Every node, parents first."""
        return self.root.walk()

    def __getitem__(self, path: str) -> Node:
        """The node at ``path``.

        Raises:
            KeyError: there is no module at that path.
        """
        for node in self:
            if node.path == path:
                return node
        raise KeyError(path)

    def units(self, path: str) -> list[Unit]:
        """The neurons of a linear layer, or the filters of a convolution, one by one.

        Raises:
            KeyError: there is no module at that path.
            ValueError: the module there has no such units, or no values yet.
        """
        node = self[path]
        module = self.net.get_submodule(path)
        found = units(module)
        if found is None:
            raise ValueError(
                f"summary: {path or 'the root'} is a {node.kind}; units are of Linear, Bilinear "
                "and convolution layers that have values"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The tree as nested dicts, lists, strings and numbers, ready for ``json``."""
        from chimera.summary.record import recorded

        return recorded(self)

    def to_markdown(self) -> str:
        """The tree as a Markdown table, findings below it."""
        from chimera.summary.markdown import markdown

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
        from chimera.store.atomic import write_atomic
        from chimera.summary.html import page

        if bins < 2:
            raise ValueError(f"summary: bins must be 2 or more; got {bins}")
        file = Path(path)
        write_atomic(file, page(self, Values(self.net, bins)))
        return file

    def __str__(self) -> str:
        from chimera.summary.text import plain

        return plain(self, 80)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from chimera.summary.text import lines

        yield from lines(self, options.max_width)
