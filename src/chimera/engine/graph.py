"""A whole training step as one graph of tensor operations.

Forward, loss, backward, clipping and the optimizer's update are recorded once by ``make_fx`` under
the modes that draw. What the graph takes is all that may change between steps: stacked tensors,
the optimizer's state, its factors, the arguments, the step. It changes the first two in place and
gives the losses. With a function to be called before the update there are two graphs, and the
gradients between them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from chimera.engine.program import Program, Uncapturable
from chimera.optim.arithmetic import wide
from chimera.optim.clip import Clip
from chimera.optim.recording import Recording
from chimera.stack.each import Arguments

# Inductor's time grows with the operations of a graph: some 10 ms each on one core.
LARGEST = 4000

Run = Callable[..., Sequence[Tensor | None]]
Compile = Callable[[GraphModule, Sequence[int]], Run]
"""Takes a recording, and the places of the arguments that are the same tensors at every call."""
Between = Callable[[Tensor, list[Tensor | None]], list[Tensor | None] | None]


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a step changes.

    Attributes:
        own: the stacked tensors.
        state: the optimizer's.
        names: what each of these is called.
    """

    own: list[Tensor]
    state: list[Tensor]
    names: list[str]

    def copies(self) -> Tensors:
        """The same in memory of their own."""
        own, state = ([tensor.clone() for tensor in part] for part in (self.own, self.state))
        return Tensors(own, state, self.names)

    def take_over(self, other: Tensors) -> None:
        """Let these hold what ``other`` holds."""
        for mine, theirs in zip((*self.own, *self.state), (*other.own, *other.state), strict=True):
            mine.copy_(theirs)

    def apart(
        self,
        other: Tensors,
        losses: Sequence[Tensor],
        others: Sequence[Tensor],
        before: Sequence[Tensor],
    ) -> float:
        """How far ``other``, and the losses that came with it, are from these.

        The largest difference, as a part of the largest loss, stacked tensor or tensor of the
        state. Where a gradient is rounding noise, as a bias's before batch norm, Adam moves a
        parameter by all of its learning rate in any direction: twice the way that a tensor went is
        no difference.

        Args:
            other: what the same step made of copies.
            losses: of this step.
            others: of the other.
            before: what ``own`` was before the step.
        """
        ways = [2.1 * largest(a - b) for a, b in zip(self.own, before, strict=True)]
        return max(
            relative(losses, others),
            relative(self.own, other.own, ways),
            *(relative(*pairs) for pairs in self._by_name(other)),
        )

    def _by_name(self, other: Tensors) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        for name in dict.fromkeys(self.names):
            yield (
                [t for t, other in zip(self.state, self.names, strict=True) if other == name],
                [t for t, other in zip(other.state, self.names, strict=True) if other == name],
            )


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
        operations: how many there are.

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
        self.operations = sum(len(graph.graph.nodes) for graph in self.graphs)
        if self.operations > LARGEST:
            raise Uncapturable(f"a graph of {self.operations} operations takes too long to compile")
        self._runs: list[Run] = list(self.graphs)

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
        """A step's number as the graph takes it."""
        return torch.tensor(step, device=self._like.device)

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
        with torch.enable_grad():
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


def recorded(function: Callable[..., list[Tensor]], flat: list[Tensor]) -> GraphModule:
    """``function`` as a graph; nothing is computed, and the tensors stay as they are."""
    _check_cache()
    found = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*flat)
    assert isinstance(found, GraphModule)
    return found


def _check_cache() -> None:
    """Refuse a folder of torch's compiler that cannot be written.

    Its import would fail, and torch would be left half loaded.
    """
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if folder is None:
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise Uncapturable(f"TORCHINDUCTOR_CACHE_DIR={folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise Uncapturable(f"TORCHINDUCTOR_CACHE_DIR={folder} cannot be written")


@torch.no_grad()
def relative(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], free: Sequence[float] | None = None
) -> float:
    """The largest difference, as a part of the largest number of ours; NaN only meets NaN.

    Args:
        ours: tensors.
        theirs: of the same shapes.
        free: what a tensor may differ by besides.
    """
    worst = most = 0.0
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine.dtype == torch.bool:
            continue
        if not torch.equal(mine.isfinite(), other.isfinite()):
            return math.inf
        most = max(most, largest(mine))
        worst = max(worst, largest(mine - other) - (free[place] if free else 0.0))
    return worst / most if most else worst


def largest(tensor: Tensor) -> float:
    """The largest finite number of a tensor, without its sign."""
    if not tensor.numel():
        return 0.0
    return float(tensor.where(tensor.isfinite(), 0).abs().max())
