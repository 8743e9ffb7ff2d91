"""Members in chunks, where the activations of all of them at once would not fit.

Contract: losses, gradients, draws and buffers are those of all members at once; a chunk's
activations are gone before the next begins. How many chunks there are follows from a prediction,
which sees shapes alone: the same stack on the same machine runs in the same chunks.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from chimera.draws.mode import Key
from chimera.engine.eager import Eager, checked_losses
from chimera.engine.graph import StepGraph
from chimera.engine.kinds import name_of
from chimera.engine.program import Members
from chimera.stack.each import Arguments, index_of
from chimera.stack.outputs import merge
from chimera.stack.plan import plan_of
from chimera.stack.stack import Stack

# Of the memory of the machine, what a step may take unless it is told.
SHARE = 0.8
# Less than this, parameters and arguments together, is not worth a prediction.
WATCHED_FROM = 256 << 20
# Tensors of the optimizer's as large as a parameter: two means, and what a step works in.
STATES = 3
_CHUNKS = "chunks"


class Chunks:
    """The gradients of a Stack, chunk by chunk.

    Args:
        eager: whose step it is.
        count: how many chunks.
        name: of the kind of step, the shapes of its arguments.
        told: why, for ``explain``.
    """

    def __init__(self, eager: Eager, count: int, name: str, told: str) -> None:
        self._eager, self.count, self.name, self.told = eager, count, name, told

    @property
    def choice(self) -> str:
        """What a run records of it, and ``chunks_of`` is told when it goes on."""
        return f"{self.count} {_CHUNKS}"

    def take(self, given: Arguments, key: Key) -> Tensor:
        """One step; the losses ``[members]``, detached.

        Raises:
            Uncapturable: the members need more than tensor operations.
        """
        losses = self._gradients(given, key)
        self._eager.update(losses)
        return losses

    def _gradients(self, given: Arguments, key: Key) -> Tensor:
        stack, optimizer = self._eager.stack, self._eager.optimizer
        learn(stack, self._eager, given, key)
        program = self._eager.program(given)
        optimizer.zero_grad()
        tensors = program.tensors()
        step = torch.as_tensor(key.step, device=tensors[0].device)
        trained = set(program.trained)
        found: list[Tensor] = []
        positions: list[int] = []
        for part in range(self.count):
            spans = program.spans(part, self.count)
            own = [
                tensor.detach().requires_grad_(i in trained)
                for i, tensor in enumerate(program.narrowed(tensors, spans))
            ]
            outputs = program.of_part(own, given, step, spans)
            if not outputs:
                continue
            mine = [position for output in outputs for position in output.positions]
            losses = checked_losses(merge(outputs), len(mine))
            wanted = [own[i] for i in program.trained]
            grads = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
            for i, grad in zip(program.trained, grads, strict=True):
                if grad is not None:
                    _put(tensors[i], own[i], grad)
            found.append(losses.detach())
            positions += sorted(mine)
        whole = torch.cat(found)
        order = index_of(positions, whole.device)
        return torch.empty_like(whole).index_copy_(0, order, whole)


def _put(parameter: Tensor, rows: Tensor, grad: Tensor) -> None:
    """Let the gradient's rows that belong to ``rows``, a part of ``parameter``, be ``grad``."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    start = (rows.storage_offset() - parameter.storage_offset()) // max(parameter.stride(0), 1)
    parameter.grad[start : start + len(rows)].copy_(grad)


def learn(stack: Stack, eager: Eager, given: Arguments, key: Key) -> None:
    """Find how each group runs such a call by its first two members, where it is not known."""
    for group, _ in stack.parts():
        plan = plan_of(group, given)
        if not plan.fresh or plan.alone is not None:
            continue
        few = group.positions[:2]
        small = Stack([stack[position] for position in few], seed=stack.seed)
        small.members = tuple(stack.members[position] for position in few)
        mine = given.take(index_of(few, group.device))
        with torch.no_grad():
            small.run(eager.call, mine, key)
        ((twin, _),) = small.parts()
        group.plans.update(twin.plans)


def predicted(eager: Eager, given: Arguments, key: Key) -> float:
    """The bytes of one member's activations, forward and backward, at their peak.

    Of the recorded step of the first two members of the first group: what lives between its
    operations.

    Raises:
        Uncapturable: the step is more than tensor operations.
    """
    stack = eager.stack
    few = stack.parts()[0][0].positions[:2]
    small = Stack([stack[position] for position in few], seed=stack.seed)
    mine = given.take(index_of(few, stack.device))
    with torch.no_grad():
        small.run(eager.call, mine, key)
    graph = StepGraph(Members(small, eager.call, mine), None, None, mine, parted=True)
    return peak(graph.graphs[0]) / len(few)


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


def check_memory(memory: object) -> None:
    """Refuse what is no number of bytes.

    Raises:
        TypeError: it is none.
    """
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int)):
        raise TypeError(f"memory is a number of bytes; got {memory!r:.60}")


def chunks_of(
    eager: Eager, given: Arguments, key: Key, memory: int | None, before: str | None = None
) -> Chunks | None:
    """The chunks in which a stack runs; None for all members at once.

    Args:
        eager: whose step it is.
        given: arguments of all members.
        key: of the draws.
        memory: the most bytes that a step may take in all; a share of the machine's unless given.
        before: what the run chose before it was stopped, where it was.

    Raises:
        ValueError: not even parameters, gradients and the optimizer's state fit in ``memory``.
        Uncapturable: the step is more than tensor operations.
    """
    if before is not None:
        told = f"members run in {before}, as the run chose before"
        many, _, what = before.partition(" ")
        return Chunks(eager, int(many), name_of(given), told) if what == _CHUNKS else None
    own = eager.own()
    weights = sum(tensor.nbytes for tensor in own)
    data = sum(leaf.nbytes for leaf in given.leaves if isinstance(leaf, Tensor))
    if memory is None and weights + data < WATCHED_FROM:
        return None
    fixed = weights * (2 + STATES) + data
    limit = memory or round(SHARE * memory_of(eager.stack.device))
    if memory is not None and fixed >= memory:
        raise ValueError(
            f"memory={memory} bytes do not hold parameters, gradients, the optimizer's state and "
            f"the arguments, {fixed} bytes together"
        )
    learn(eager.stack, eager, given, key)
    each = predicted(eager, given, key)
    members = len(eager.stack)
    room = max(limit - fixed, each)
    count = min(members, -int(-each * members // room))
    if count <= 1:
        return None
    told = (
        f"members run in {count} chunks: all at once take {_mib(fixed + each * members)} MiB by "
        f"prediction, of {_mib(limit)}"
    )
    return Chunks(eager, count, name_of(given), told)


def memory_of(device: torch.device) -> int:
    """The bytes of memory of a device, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _mib(size: float) -> int:
    return round(size / 2**20)
