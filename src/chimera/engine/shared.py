"""One compiled recording for several that differ in their constants alone.

What a recording holds of the members, as the keys of their draws and their places, becomes an
argument, so that the chunks of a stack are compiled once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from chimera.engine.graph import Compile, Run


def shared(inner: Compile) -> Compile:
    """What compiles as ``inner`` does, but a recording like an earlier one not again."""
    made: dict[Any, Run] = {}

    def compiled(graph: GraphModule, fixed: Sequence[int]) -> Run:
        constants = _lifted(graph)
        key = (graph.code, tuple(fixed), tuple(_shape(node) for node in graph.graph.nodes))
        if key not in made:
            made[key] = inner(graph, fixed)
        run = made[key]
        return lambda *tensors: run(*tensors, *constants)

    return compiled


def _lifted(graph: GraphModule) -> list[Tensor]:
    """Let the constants of a recording be its last arguments; gives them."""
    nodes = list(graph.graph.nodes)
    taken = [node for node in nodes if node.op == "placeholder"]
    constants: list[Tensor] = []
    places: dict[str, Any] = {}
    for node in nodes:
        if node.op != "get_attr":
            continue
        name = str(node.target)
        if name not in places:
            value = getattr(graph, name)
            assert isinstance(value, Tensor)
            with graph.graph.inserting_after(taken[-1]):
                place = graph.graph.placeholder(f"constant_{len(constants)}")
            place.meta = {"val": value}
            taken.append(place)
            constants.append(value)
            places[name] = place
        node.replace_all_uses_with(places[name])
        graph.graph.erase_node(node)
    for name in places:
        delattr(graph, name)
    graph.recompile()
    return constants


def _shape(node: Any) -> Any:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return tuple(value.shape), value.stride(), value.dtype, value.device
