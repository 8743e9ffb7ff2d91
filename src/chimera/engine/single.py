"""A training step of one plain network, with an optimizer of ``torch.optim``.

Forward, loss and backward are recorded; clipping and the optimizer's step follow as they are, the
latter by torch's fused kernel where there is one that computes the same.
Draws come from torch's own generator, in the same order whichever engine takes the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.inputs import Inputs
from chimera.engine.choice import Rule
from chimera.engine.fast import APART, why
from chimera.engine.graph import StepGraph
from chimera.engine.kinds import Kind, Kinds, notes_of, shapes_of
from chimera.engine.network import Call, Network, standing
from chimera.engine.surroundings import around
from chimera.engine.tensors import Tensors, relative
from chimera.engine.update import fused
from chimera.paths.nest import flatten
from chimera.stack.each import Arguments, Each


class Single:
    """Steps of one network, by recordings where there are any.

    Args:
        module: the network.
        call: gives its loss.
        loss: what ``call`` asks for it.
        optimizer: moves its parameters.
        hook: called with the loss before that.
        clip: the largest norm of all gradients; None for any.
        rule: says when a kind of step is recorded and compiled; None for never.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call,
        loss: Any,
        optimizer: torch.optim.Optimizer,
        hook: Callable[[Tensor], None] | None,
        clip: float | None,
        rule: Rule | None,
    ) -> None:
        self._module, self._call, self._optimizer = module, call, optimizer
        self._hook, self._clip, self.rule = hook, clip, rule
        self.kinds = Kinds("the step", around(module, {"loss": loss}))

    def take(self, given: Arguments, expected: int | None) -> Tensor:
        """One step; the loss, detached."""
        if self.rule is None:
            return self._eagerly(given)
        own, modes = standing(self._module)
        key = shapes_of(given, own), modes
        kind = self.kinds.at(key, given)
        kind.calls += 1
        if kind.graph is not None:
            return self._by(kind.graph, given, own)
        if kind.choice == "eager" or not self.rule.ready(kind, expected):
            return self._eagerly(given)
        return self._first(kind, given, own, expected)

    def _eagerly(self, given: Arguments) -> Tensor:
        loss = self._gradients(given)
        self._update(loss)
        return loss

    def _gradients(self, given: Arguments) -> Tensor:
        self._optimizer.zero_grad()
        loss = checked(self._call(self._module, *given.rebuild(given.leaves)))
        loss.backward()
        return loss.detach()

    def _update(self, loss: Tensor) -> None:
        if self._hook is not None:
            self._hook(loss)
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self._module.parameters(), self._clip)
        self._optimizer.step()

    def _by(self, graph: StepGraph, given: Arguments, own: Sequence[Tensor]) -> Tensor:
        tensors = Tensors([tensor.detach() for tensor in own], [], [])

        def between(loss: Tensor, grads: list[Tensor | None]) -> None:
            self._optimizer.zero_grad()
            for place, grad in zip(graph.trained, grads, strict=True):
                _add(own[place], grad)
            with fused(self._optimizer):
                self._update(loss)

        return graph.run(tensors, given, 0, between).clone()

    def _first(
        self, kind: Kind, given: Arguments, own: Sequence[Tensor], expected: int | None
    ) -> Tensor:
        """A step both ways, of which the eager one counts."""
        assert self.rule is not None
        before = [tensor.detach().clone() for tensor in own if not isinstance(tensor, nn.Parameter)]
        draws = _draws()
        self._optimizer.zero_grad()
        # Gradients of what the optimizer does not hold: the step's add up to them.
        added: dict[Tensor, Tensor] = {
            p: p.grad.clone() for p in self._module.parameters() if p.grad is not None
        }
        loss = self._gradients(given)
        try:
            graph = kind.recorded = kind.recorded or self._recorded(kind, given)
            if self.rule.worth(kind, graph.cost, expected):
                graph.compile(self.rule.compiler())
                with _rewound(draws):
                    apart = self._apart(graph, given, before, loss, added)
                if apart > APART:
                    raise _Apart(f"the recorded step differs from eager by {apart:.1e}")
                kind.graph, kind.choice = graph, self.rule.makes
        except Exception as error:  # noqa: BLE001 - of recording or of the compiler: eager serves
            self.kinds.refuse(kind, str(error) if isinstance(error, _Apart) else why(error))
        self._update(loss)
        return loss

    def _recorded(self, kind: Kind, given: Arguments) -> StepGraph:
        with self.kinds.surroundings.untouched(kind.state, given):
            program = Network(self._module, self._call, given)
            return StepGraph(program, None, None, given, parted=True)

    def _apart(
        self,
        graph: StepGraph,
        given: Arguments,
        before: Sequence[Tensor],
        loss: Tensor,
        added: Mapping[Tensor, Tensor],
    ) -> float:
        """How far the recording is from the loss, the gradients and the buffers that are there."""
        gaps: list[float] = []
        tensors = graph.tensors()
        buffers = iter(before)
        after = list(tensors.own)
        for place, tensor in enumerate(graph.owners()):
            if not isinstance(tensor, nn.Parameter):
                tensors.own[place] = next(buffers)

        def between(other: Tensor, grads: list[Tensor | None]) -> None:
            pairs = [
                (_since(parameter, added.get(parameter), grad), grad)
                for parameter, grad in zip(graph.parameters(), grads, strict=True)
            ]
            if any((one is None) != (two is None) for one, two in pairs):
                gaps.append(float("inf"))
            gaps.append(relative([loss], [other]))
            gaps.append(relative(*_halves(pairs)))

        graph.run(tensors, given, 0, between)
        gaps.append(relative(after, tensors.own))
        return max(gaps)

    def notes(self) -> list[str]:
        """Whole sentences for ``explain``."""
        if self.rule is None:
            return ["engine eager: as asked"]
        return notes_of(self.rule.name, self.kinds)


def _add(parameter: Tensor, grad: Tensor | None) -> None:
    """Give a parameter its gradient, as a backward pass does.

    One that the optimizer does not hold keeps what was there, and this adds up.
    """
    if grad is None:
        return
    if parameter.grad is None:
        parameter.grad = grad
    else:
        parameter.grad += grad


def _since(parameter: Tensor, before: Tensor | None, like: Tensor | None) -> Tensor | None:
    """What a backward pass gave a parameter whose gradient was ``before``."""
    if before is None or parameter.grad is None:
        return parameter.grad
    given = like is not None or not torch.equal(parameter.grad, before)
    return parameter.grad - before if given else None


class _Apart(Exception):
    """A recording computes something else."""


def _halves(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[Tensor], list[Tensor]]:
    whole = [(one, two) for one, two in pairs if one is not None and two is not None]
    return [one for one, _ in whole], [two for _, two in whole]


def checked(loss: Any) -> Tensor:
    """The loss of a network.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is no single number, or depends on no parameter.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss must give a tensor, got {loss!r:.60}")
    if loss.numel() != 1:
        raise ValueError(
            f"loss must give one number, got shape {tuple(loss.shape)}; reduce it, as in "
            "loss.mean()"
        )
    if not loss.requires_grad:
        why_not = "gradients are switched off" if not torch.is_grad_enabled() else "it has no graph"
        raise ValueError(f"loss depends on no parameter that requires a gradient ({why_not})")
    return loss.reshape(())


def plain_arguments(inputs: Inputs, targets: Sequence[Any]) -> Arguments:
    """The arguments of a step of one network.

    Raises:
        TypeError: one is marked by ``each``.
    """
    leaves, shape = flatten(((inputs.args, inputs.kwargs, tuple(targets)), {}))
    if any(isinstance(leaf, Each) for leaf in leaves):
        raise TypeError(
            "each(...) marks what differs between the members of a Stack; this is one network"
        )
    return Arguments(leaves, [False] * len(leaves), shape)


def _draws() -> tuple[Tensor, list[Tensor]]:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else []


@contextmanager
def _rewound(draws: tuple[Tensor, list[Tensor]]) -> Iterator[None]:
    """Let torch's generators draw again what they drew since ``draws``; then go on as before."""
    now = _draws()
    for state in (draws, now):
        torch.set_rng_state(state[0])
        if state[1]:
            torch.cuda.set_rng_state_all(state[1])
        if state is draws:
            yield
