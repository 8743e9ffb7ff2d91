"""Which of what a recording takes or holds it changes in place, read off the recorded operations.

Contract: all of it is told, whichever view of a tensor was written to, as far as the operations'
own schemas say what they change; batch norm in training, whose schema in torch says nothing, is
known by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from chimera.engine.program import Uncapturable

_STATISTICS = ("running_mean", "running_var")


def check_writes(graph: GraphModule, may: set[int], own: int) -> None:
    """Refuse a recording that changes in place what it may not.

    Args:
        graph: the recording.
        may: the places of arguments that it may change.
        own: so many of the arguments are the network's, the first.

    Raises:
        Uncapturable: it changes others, or a tensor that it holds.
    """
    wrong = written(graph) - may
    if any(isinstance(place, str) for place in wrong):
        raise Uncapturable("it changes a tensor outside of the network in place")
    if any(isinstance(place, int) and place >= own for place in wrong):
        raise Uncapturable("it changes its inputs in place")
    if wrong:
        raise Uncapturable("it changes parameters in place")


def written(graph: GraphModule) -> set[int | str]:
    """The places of the arguments, and the names of the constants, that ``graph`` changes."""
    roots: dict[Node, set[int | str]] = {}
    found: set[int | str] = set()
    place = 0
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            roots[node] = {place}
            place += 1
        elif node.op == "get_attr":
            roots[node] = {str(node.target)}
        elif node.op == "call_function":
            roots[node] = _views(node, roots, found)
    return found


def _views(node: Node, roots: dict[Node, set[int | str]], found: set[int | str]) -> set[int | str]:
    """Whose memory a result may lie in; notes in ``found`` whose the operation writes to."""
    arguments = _by_name(node)
    if arguments is None:  # of Python, as getitem
        return set().union(*(roots.get(one, set()) for one in node.all_input_nodes))
    own: set[int | str] = set()
    for name, (value, alias) in arguments.items():
        nodes: list[Node] = []
        torch.fx.node.map_arg(value, nodes.append)
        of = set().union(*(roots.get(one, set()) for one in nodes))
        if (alias is not None and alias.is_write) or (
            name in _STATISTICS and "batch_norm" in str(node.target) and _trains(arguments)
        ):
            found |= of
        if alias is not None:
            own |= of
    return own


def _by_name(node: Node) -> dict[str, tuple[Any, Any]] | None:
    """The arguments of an operation, each with what its schema says of its memory."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return None
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
    return {a.name: (given[a.name], a.alias_info) for a in schema.arguments if a.name in given}


def _trains(arguments: dict[str, tuple[Any, Any]]) -> bool:
    return any(arguments.get(name, (False,))[0] is True for name in ("training", "train"))
