"""A whole training step as one graph of tensor operations.

Forward, loss, backward, clipping and the optimizer's update are recorded once by ``make_fx`` under
the modes that draw. What the graph takes is all that may change between steps: stacked tensors,
the optimizer's state, its factors, the arguments, the step. It changes the first two in place and
gives the losses. With a function to be called before the update there are two graphs, and the
gradients between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from chimera.engine.cost import checked_cost
from chimera.engine.program import Program, Uncapturable
from chimera.engine.questions import unasked
from chimera.engine.tensors import Tensors
from chimera.engine.trace import recorded
from chimera.engine.written import check_writes
from chimera.optim.arithmetic import wide
from chimera.optim.clip import Clip
from chimera.optim.recording import Recording
from chimera.stack.each import Arguments

Run = Callable[..., Sequence[Tensor | None]]
Compile = Callable[[GraphModule, Sequence[int]], Run]
"""Takes a recording, and the places of the arguments that are the same tensors at every call."""
Between = Callable[[Tensor, list[Tensor | None]], list[Tensor | None] | None]


class StepGraph:
    """The graph of one kind of step.

    Args:
        program: what gives the losses.
        recording: the optimizer's step; None where another takes it, between.
        clip: scales the gradients; None leaves them.
        given: arguments of all members; the graph takes others of the same shapes.
        parted: whether something is called between the backward pass and the update.

    Attributes:
        graphs: what was recorded.
        cost: what it takes without being compiled.

    Raises:
        Uncapturable: the step is more than tensor operations.
    """

    def __init__(
        self,
        program: Program,
        recording: Recording | None,
        clip: Clip | None,
        given: Arguments,
        *,
        parted: bool,
    ) -> None:
        self._program, self.recording, self._clip = program, recording, clip
        self._used: list[bool] = []
        tensors = self.tensors()
        self._like = program.tensors()[0]
        moving, step = program.moving(given), self.step_of(0)
        self._sizes = (len(tensors.own), len(tensors.state), len(moving))
        self.parted = parted
        with torch.no_grad():
            if parted:
                first = recorded(self._gradients, [*tensors.own, *moving, step])
                self.graphs = [first]
            if parted and recording is not None:
                grads = [torch.empty_like(tensors.own[i]) for i in self._trained()]
                rest = [*tensors.own, *tensors.state, *self.numbers(), *grads]
                self.graphs.append(recorded(self._update, rest))
            if not parted:
                flat = [*tensors.own, *tensors.state, *self.numbers(), *moving, step]
                self.graphs = [recorded(self._whole, flat)]
        self._check_gradients(given)
        self._check_writes(*self._sizes[:2])
        self.cost = checked_cost(self.graphs)
        self._runs: list[Run] = list(self.graphs)

    def _check_gradients(self, given: Arguments) -> None:
        """Refuse what eager gives a gradient to and a recording would not."""
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in given.leaves):
            raise Uncapturable("an argument needs a gradient, and a recorded step gives none to it")
        for graph in self.graphs:
            for node in graph.graph.find_nodes(op="get_attr"):
                held = getattr(graph, str(node.target))
                if isinstance(held, Tensor) and held.requires_grad:
                    shape = "x".join(map(str, held.shape)) or "a number"
                    raise Uncapturable(
                        f"the step uses a tensor ({shape}) outside the network that needs a "
                        "gradient, and a recorded step gives none to it; requires_grad_(False) "
                        "where it is not to be trained"
                    )

    def _check_writes(self, own: int, state: int) -> None:
        """Refuse what eager changes in place and two runs of the first step would change twice."""
        may = set(self._program.buffers)
        if not self.parted:
            may |= {*self._program.trained, *range(own, own + state)}
        check_writes(self.graphs[0], may, own)

    def compile(self, compiler: Compile) -> None:
        """Let what ``compiler`` makes of the recordings run in their place."""
        kept = self._sizes[0] + self._sizes[1]
        self._runs = [compiler(self.graphs[0], range(self._sizes[0] if self.parted else kept))]
        if len(self.graphs) > 1:
            count = sum(self._used)
            grads = range(-count, 0)
            self._runs.append(compiler(self.graphs[1], [*range(kept), *grads]))

    def tensors(self) -> Tensors:
        """What the step changes, now."""
        own = [tensor.detach() for tensor in self._program.tensors()]
        if self.recording is None:
            return Tensors(own, [], [])
        return Tensors(own, self.recording.state(), self.recording.state_names())

    def numbers(self) -> list[Tensor]:
        """What else the coming step takes of the optimizer."""
        if self.recording is None:
            return []
        like = self._like
        limit = [] if self._clip is None else [self._clip.limits(like.device, wide(like))]
        return [*self.recording.factors(), *limit]

    def step_of(self, step: int) -> Tensor:
        """A step's number as the graph takes it; made without waiting for the device."""
        return torch.full((), step, dtype=torch.int64, device=self._like.device)

    @torch.no_grad()
    def run(
        self,
        tensors: Tensors,
        given: Arguments,
        step: int,
        between: Between | None = None,
    ) -> Tensor:
        """Take the step.

        Args:
            tensors: what it changes: ``tensors()``, or stand-ins.
            given: the arguments.
            step: which step's draws.
            between: called with the losses and the gradients where the graph is parted; gives
                the gradients to move by, or None where the step is taken already.

        Returns:
            The losses ``[members]``.
        """
        moving, numbers = self._program.moving(given), self.numbers()
        if not self.parted:
            (run,) = self._runs
            (losses,) = run(*tensors.own, *tensors.state, *numbers, *moving, self.step_of(step))
            assert losses is not None
            return losses
        losses, *grads = self._runs[0](*tensors.own, *moving, self.step_of(step))
        assert losses is not None
        found = iter(grads)
        every = [next(found) if used else None for used in self._used]
        if between is not None:
            after = between(losses, every)
            if after is None:
                return losses
            every, numbers = after, self.numbers()
        self._runs[1](*tensors.own, *tensors.state, *numbers, *(g for g in every if g is not None))
        return losses

    @property
    def trained(self) -> list[int]:
        """The places, in the order of ``tensors().own``, of what may get a gradient."""
        return self._program.trained

    def owners(self) -> list[Tensor]:
        """The parameters and buffers themselves, in the order of ``tensors().own``."""
        return self._program.tensors()

    def parameters(self) -> list[Tensor]:
        """The parameters that may get a gradient, in the order of the gradients."""
        tensors = self._program.tensors()
        return [tensors[i] for i in self._program.trained]

    def _trained(self) -> list[int]:
        if not self._used:
            return self._program.trained
        return [i for i, used in zip(self._program.trained, self._used, strict=True) if used]

    def _whole(self, *flat: Tensor) -> list[Tensor]:
        own, rest = flat[: self._sizes[0]], flat[self._sizes[0] :]
        count = self._sizes[2]
        losses, grads = self._backward(own, rest[-1 - count : -1], rest[-1])
        with torch.no_grad():
            self._move(own, rest[: -1 - count], grads)
        return [losses]

    def _gradients(self, *flat: Tensor) -> list[Tensor]:
        own, rest = flat[: self._sizes[0]], flat[self._sizes[0] :]
        losses, grads = self._backward(own, rest[:-1], rest[-1])
        self._used = [grad is not None for grad in grads]
        return [losses, *(grad for grad in grads if grad is not None)]

    def _backward(
        self, own: Sequence[Tensor], moving: Sequence[Tensor], step: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        trained = set(self._program.trained)
        tensors = [
            tensor.detach().requires_grad_() if i in trained else tensor
            for i, tensor in enumerate(own)
        ]
        written = list(tensors)
        for i in self._program.buffers:
            written[i] = tensors[i].clone()
        with torch.enable_grad(), unasked():
            losses = self._program.outputs(written, moving, step)
            wanted = [written[i] for i in self._program.trained]
            grads = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
        for i in self._program.buffers:
            own[i].copy_(written[i])
        return losses.detach().reshape(self._program.shape), list(grads)

    def _update(self, *flat: Tensor) -> list[Tensor]:
        own, rest = flat[: self._sizes[0]], list(flat[self._sizes[0] :])
        count = sum(self._used)
        found = iter(rest[len(rest) - count :])
        grads = [next(found) if used else None for used in self._used]
        self._move(own, rest[: len(rest) - count], grads)
        return []

    def _move(
        self, own: Sequence[Tensor], rest: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> None:
        state, numbers = rest[: self._sizes[1]], rest[self._sizes[1] :]
        if self._clip is not None:
            tensors = self._program.tensors()
            trained = [tensors[i] for i in self._program.trained]
            grads = self._clip.scaled(trained, grads, numbers[-1])
            numbers = numbers[:-1]
        parameters = [own[i] for i in self._program.trained]
        assert self.recording is not None
        self.recording.apply(parameters, grads, state, numbers)
