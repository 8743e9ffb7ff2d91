"""What a summary knows of a network: its tree, its flow, its figures."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from chimera.check.finding import Finding
from chimera.paths.walk import unknown
from chimera.summary.flow import Flow
from chimera.summary.node import Node
from chimera.summary.unit import Unit, units


@dataclass(frozen=True)
class Figures:
    """A network as a tree, from the model down to its neurons.

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
        raise unknown(path, (node.path for node in self))

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
