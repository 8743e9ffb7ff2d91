"""What a recorded call costs when it is taken eagerly, counted from the recording alone.

Products and convolutions take the same time in a compiled graph. What goes away there is the rest:
Python and autograd for every operation, and the memory that each reads and writes by itself.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from chimera.engine.program import Uncapturable

# Inductor's time grows with the operations of a graph, those aside that only name a tensor.
LARGEST = 4000
_ATEN = torch.ops.aten
_KEPT = (
    *(_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm),
    *(_ATEN.convolution, _ATEN.convolution_backward),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Counts of a recording.

    Attributes:
        operations: all that was recorded, views and arguments too.
        passes: operations that pass through memory and that a compiler fuses with others.
        nbytes: what these read and write.
    """

    operations: int
    passes: int
    nbytes: int


def checked_cost(graphs: Sequence[GraphModule]) -> Cost:
    """``cost_of``.

    Raises:
        Uncapturable: there are too many operations for a compiler.
    """
    cost = cost_of(graphs)
    work = sum(not _names(node) for graph in graphs for node in graph.graph.nodes)
    if work > LARGEST:
        raise Uncapturable(f"a graph of {work} operations takes too long to compile")
    return cost


def _names(node: Node) -> bool:
    """Whether a node is an argument, a part of a result, or a tensor by another name."""
    if node.op != "call_function" or node.target is operator.getitem:
        return True
    return node.target in (_ATEN.detach.default, _ATEN.view.default, _ATEN.empty_like.default)


def cost_of(graphs: Iterable[GraphModule]) -> Cost:
    """The counts of recordings together."""
    operations = passes = nbytes = 0
    for graph in graphs:
        for node in graph.graph.nodes:
            operations += 1
            if _passes(node):
                passes += 1
                nbytes += _bytes(node) + sum(_bytes(given) for given in node.all_input_nodes)
    return Cost(operations, passes, nbytes)


def _passes(node: Node) -> bool:
    kind: Any = node.target
    packet = getattr(kind, "overloadpacket", None)  # none: an argument, or a part of a result
    if packet is None or packet in _KEPT:
        return False
    return not kind.is_view and kind not in (_ATEN.detach.default, _ATEN._unsafe_view.default)


def _bytes(node: Node) -> int:
    value: Any = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return sum(each.numel() * each.element_size() for each in values if isinstance(each, Tensor))
