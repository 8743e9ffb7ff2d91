"""Forward and backward of one training step as one graph of tensor operations.

A call of a Stack that needs no Python of its members (no conditions on data, no state written, no
hooks) is recorded once by ``make_fx`` under the modes that draw, and handed to torch's compiler.
What the graph takes is all that may change between steps: the stacked tensors, the arguments, the
step. What it gives are the losses, the gradients and the buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from chimera.draws.mode import Key
from chimera.stack.batched import Call, run_batched
from chimera.stack.each import Arguments
from chimera.stack.group import Group
from chimera.stack.outputs import Outputs, merge
from chimera.stack.plan import plan_of
from chimera.stack.stack import Stack


class Uncapturable(Exception):
    """A call that is more than tensor operations; the text says why."""


# Inductor's time grows with the operations of a graph: some 10 ms each on one core.
LARGEST = 2000
Recorded = Callable[..., list[Tensor]]


class StepGraph:
    """The graph of one kind of call.

    Args:
        stack: the members.
        call: gives one member's loss.
        given: arguments of all members; the graph takes others of the same shapes.

    Raises:
        Uncapturable: the call is more than tensor operations.
    """

    def __init__(self, stack: Stack, call: Call, given: Arguments) -> None:
        self._stack, self._call, self._given = stack, call, given
        self._groups = stack.parts()
        for group, _ in self._groups:
            _check(group, given)
        tensors = self._tensors()
        self._trained = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]
        self._buffers = [i for i, t in enumerate(tensors) if not isinstance(t, nn.Parameter)]
        with torch.no_grad():
            recorded = make_fx(self._run)(*self._inputs(given, 0))
        nodes = len(recorded.graph.nodes)
        if nodes > LARGEST:
            raise Uncapturable(f"a graph of {nodes} operations takes too long to compile")
        self._compiled: Recorded = torch.compile(recorded, dynamic=False, fullgraph=True)

    def __call__(self, given: Arguments, step: int) -> Tensor:
        """Take the forward and the backward pass; gradients and buffers are left on the stack.

        Returns:
            The losses ``[members]``.
        """
        losses, *rest = self.results(given, step)
        tensors = self._tensors()
        with torch.no_grad():
            seen: set[int] = set()
            for index, new in zip((*self._trained, *self._buffers), rest, strict=True):
                if isinstance(tensors[index], nn.Parameter):
                    tensors[index].grad = _own(new, tensors[index], seen)
                else:
                    tensors[index].copy_(new)
        return losses

    def results(self, given: Arguments, step: int) -> list[Tensor]:
        """The losses, the gradients, the new buffers; nothing is left on the stack."""
        with torch.no_grad():
            return self._compiled(*self._inputs(given, step))

    def apart(self, losses: Tensor, results: list[Tensor]) -> float:
        """How far ``results`` are from what the same step left on the stack eagerly.

        The largest difference, as a part of the largest loss, gradient or buffer: single gradients
        may be rounding noise, as a bias's before batch norm is.
        """
        tensors = self._tensors()
        trained, buffers = len(self._trained) + 1, [tensors[i] for i in self._buffers]
        grads = [_gradient(tensors[i]) for i in self._trained]
        return max(
            _apart([losses], results[:1]),
            _apart(grads, results[1:trained]),
            _apart(buffers, results[trained:]),
        )

    def _tensors(self) -> list[Tensor]:
        return [tensor for group, _ in self._groups for tensor in group.tensors()]

    def _inputs(self, given: Arguments, step: int) -> list[Tensor]:
        tensors = [tensor.detach() for tensor in self._tensors()]
        return [*tensors, *self._moving(given), torch.tensor(step, device=tensors[0].device)]

    def _moving(self, given: Arguments) -> list[Tensor]:
        return [leaf for leaf in given.leaves if isinstance(leaf, Tensor)]

    def _run(self, *flat: Tensor) -> list[Tensor]:
        count = sum(len(group.slots) for group, _ in self._groups)
        tensors = [
            tensor.requires_grad_() if i in self._trained else tensor.clone()
            for i, tensor in enumerate(flat[:count])
        ]
        moving = iter(flat[count:-1])
        leaves = [next(moving) if isinstance(x, Tensor) else x for x in self._given.leaves]
        given = Arguments(leaves, self._given.own, self._given.shape)
        with torch.enable_grad():
            losses = merge(self._outputs(tensors, given, flat[-1]))
            wanted = [tensors[i] for i in self._trained]
            grads = torch.autograd.grad(losses.sum(), wanted, materialize_grads=True)
        return [losses.detach(), *grads, *(tensors[i] for i in self._buffers)]

    def _outputs(self, tensors: list[Tensor], given: Arguments, step: Tensor) -> list[Outputs]:
        outputs: list[Outputs] = []
        key = Key(self._stack.seed, step)
        for group, members in self._groups:
            mine, tensors = tensors[: len(group.slots)], tensors[len(group.slots) :]
            plan = plan_of(group, given)
            ran = run_batched(
                group,
                self._call,
                given if len(group) == len(self._stack) else given.take(_places(group)),
                key=key if plan.draws else None,
                members=members,
                ruled=plan.ruled,
                tensors=mine,
            )
            if ran.slots or ran.attributes or ran.buffers or ran.parameters:
                raise Uncapturable("the members write state in forward")
            ran.output.positions = list(group.positions)
            outputs.append(ran.output)
        return outputs


def _check(group: Group, given: Arguments) -> None:
    plan = plan_of(group, given)
    if plan.alone is not None:
        raise Uncapturable(f"members run one by one: {plan.alone}")
    assert not plan.fresh
    if plan.conditions:
        raise Uncapturable("members ask tensors for Python values")
    if plan.writes or plan.copies:
        raise Uncapturable("members change their inputs or parameters in place")


def _places(group: Group) -> Tensor:
    return torch.tensor(group.positions, device=group.device)


def _own(grad: Tensor, parameter: Tensor, seen: set[int]) -> Tensor:
    """A gradient in its parameter's layout, in memory of its own, as autograd leaves it."""
    shared = grad.untyped_storage().data_ptr() in seen
    if shared or grad.stride() != parameter.stride():
        grad = torch.empty_like(parameter).copy_(grad)
    seen.add(grad.untyped_storage().data_ptr())
    return grad


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


@torch.no_grad()
def _apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    largest = max((float(tensor.abs().max()) for tensor in ours if tensor.numel()), default=0.0)
    worst = max(
        (float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True) if a.numel()),
        default=0.0,
    )
    return worst / largest if largest else worst
