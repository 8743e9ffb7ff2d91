"""What a step takes in memory, predicted by its first two members: the same stack is told the same.

What autograd saves for the backward pass, and what lives between the operations of a recording.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.fx import GraphModule

from chimera.draws.mode import Key
from chimera.engine.eager import Eager
from chimera.engine.graph import StepGraph
from chimera.engine.program import Members
from chimera.stack.each import Arguments, index_of
from chimera.stack.stack import Stack


def few_of(eager: Eager, given: Arguments, key: Key) -> tuple[Members, Arguments]:
    """The call of the first two members of the first group, and their arguments.

    Raises:
        Uncapturable: the step is more than tensor operations.
    """
    stack = eager.stack
    few = stack.parts()[0][0].positions[:2]
    small = Stack([stack[position] for position in few], seed=stack.seed)
    mine = given.take(index_of(few, stack.device))
    with torch.no_grad():
        small.run(eager.call, mine, key)
    return Members(small, eager.call, mine), mine


def saved(few: Members, given: Arguments, key: Key) -> float:
    """The bytes that autograd saves of one member for the backward pass, the parameters aside.

    Of a few members with their arguments, which run once.
    """
    moving = few.moving(given)
    rows = [tensor.detach() for tensor in few.tensors()]
    for place in few.trained:
        rows[place].requires_grad_()
    for place in few.buffers:
        rows[place] = rows[place].clone()
    known = {tensor.untyped_storage().data_ptr() for tensor in (*rows, *moving)}
    kept: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(save, lambda tensor: tensor):
        _losses = few.outputs(rows, moving, torch.as_tensor(key.step, device=rows[0].device))
    return sum(kept.values()) / few.shape[0]


def predicted(few: Members, given: Arguments) -> float:
    """The bytes of one member's activations, forward and backward, at their peak.

    Of the recorded step of a few members: what lives between its operations.

    Raises:
        Uncapturable: the step is more than tensor operations.
    """
    graph = StepGraph(few, None, None, given, parted=True)
    return peak(graph.graphs[0]) / few.shape[0]


def peak(graph: GraphModule) -> int:
    """The most bytes that a recording holds at once, besides what it is given."""
    last: dict[Any, Any] = {}
    size: dict[Any, int] = {}
    given = {_memory(n) for n in graph.graph.nodes if n.op in ("placeholder", "get_attr")}
    for node in graph.graph.nodes:
        for other in (node, *node.all_input_nodes):
            where = _memory(other)
            if where is not None and where not in given:
                last[where] = node
    live = most = 0
    ends: dict[Any, list[Any]] = {}
    for where, node in last.items():
        ends.setdefault(node, []).append(where)
    for node in graph.graph.nodes:
        where = _memory(node)
        if where in last and where not in size:
            size[where] = node.meta["val"].untyped_storage().nbytes()
            live += size[where]
            most = max(most, live)
        live -= sum(size.get(gone, 0) for gone in ends.get(node, ()))
    return most


def _memory(node: Any) -> Any:
    value = node.meta.get("val")
    return id(value.untyped_storage()) if isinstance(value, Tensor) else None


def memory_of(device: torch.device) -> int:
    """The bytes of memory of a device, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
