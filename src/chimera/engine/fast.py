"""Steps by recordings: made when a rule says so, checked against eager before they are used.

A kind of step starts eagerly. When the rule is ready it is recorded, and run on copies beside the
eager step: where the two agree, the recording's result counts, and it serves from then on. What
has no recording stays eager, which is said once and shown by ``explain``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws.mode import Key
from chimera.engine.choice import Rule
from chimera.engine.compiled import compiled
from chimera.engine.eager import Eager
from chimera.engine.graph import Between, StepGraph, relative
from chimera.engine.kinds import Kind, kind_of
from chimera.engine.program import Program, Uncapturable
from chimera.optim.recording import Recording, Unrecordable
from chimera.optim.recordings import recording_of
from chimera.paths.notice import ChimeraWarning
from chimera.stack.each import Arguments

APART = 1e-3
# A recording's first step is taken on copies, for the eager one to be compared with. Of a stack
# with more bytes than this only the losses are compared.
COPIED_UP_TO = 256 << 20


class Fast:
    """Steps of a Stack by recordings where there are any.

    Args:
        eager: takes the same steps eagerly.
        rule: says when a kind of step is recorded and compiled.
    """

    def __init__(self, eager: Eager, rule: Rule) -> None:
        self._eager, self.rule = eager, rule
        self.kinds: dict[Any, Kind] = {}
        self._said: set[str] = set()
        self._recording: Recording | None = None
        self._served = "compiled"

    def take(self, given: Arguments, key: Key, expected: int | None) -> Tensor:
        """One step; the losses ``[members]``, detached.

        Args:
            given: arguments of all members.
            key: of the draws; another seed than the stack's, or another first call, runs eagerly.
            expected: how many steps of this kind the run has, where that is known.
        """
        eager = self._eager
        if (key.seed, key.call) != (eager.stack.seed, 0) or not isinstance(key.step, int):
            return eager.take(given, key)
        kind = self._kind(given)
        kind.calls += 1
        if kind.graph is not None:
            return self._by(kind.graph, given, key.step)
        if kind.choice == "eager" or not self.rule.ready(kind, expected):
            return eager.take(given, key)
        return self._first(kind, given, key, expected)

    def _kind(self, given: Arguments) -> Kind:
        return self.kinds.setdefault(self._key(given), Kind())

    def _key(self, given: Arguments) -> Any:
        told: Any = None
        if self._recording is not None:
            try:
                told = self._recording.kind
            except Unrecordable as error:
                told = str(error)
        return kind_of(self._eager.stack, given), told

    def _by(self, graph: StepGraph, given: Arguments, step: int) -> Tensor:
        """A step that a recording takes."""
        if not graph.parted:
            self._eager.optimizer.zero_grad()
        before = self._eager.optimizer.steps
        losses = graph.run(graph.tensors(), given, step, self._between(graph))
        if self._eager.optimizer.steps == before:
            graph.recording.done()
        return losses

    def _between(self, graph: StepGraph) -> Between | None:
        if not graph.parted:
            return None
        eager, kind = self._eager, graph.recording.kind

        def between(losses: Tensor, grads: list[Tensor | None]) -> list[Tensor | None] | None:
            parameters = graph.parameters()
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            assert eager.hook is not None
            eager.hook(losses)
            found = [parameter.grad for parameter in parameters]
            alike = [grad is None for grad in found] == [grad is None for grad in grads]
            if alike and graph.recording.kind == kind:
                return found
            eager.move()  # the settings are others than were recorded
            return None

        return between

    def _first(self, kind: Kind, given: Arguments, key: Key, expected: int | None) -> Tensor:
        """A step both ways; an error of the recording or of the compiler leaves the eager one."""
        eager, step = self._eager, key.step
        assert isinstance(step, int)
        own = [tensor for group, _ in eager.stack.parts() for tensor in group.tensors()]
        buffers = [tensor for tensor in own if not isinstance(tensor, nn.Parameter)]
        small = sum(tensor.nbytes for tensor in own) <= COPIED_UP_TO
        before = [tensor.detach().clone() for tensor in (own if small else buffers)]
        losses = eager.gradients(given, key)
        graph: StepGraph | None = None
        try:
            graph = kind.recorded = kind.recorded or self._recorded(given)
            self.kinds[self._key(given)] = kind
            if self.rule.worth(kind, graph, expected):
                graph.compile(compiled)
                if not small:
                    _put(buffers, before)
                    return self._unseen(kind, graph, given, step, losses)
                stand = graph.tensors().copies()
                _put(stand.own, before)
                results = graph.run(stand, given, step)
            else:
                graph = None
        except Exception as error:  # noqa: BLE001 - of recording or of the compiler: eager serves
            graph = None
            self._refuse(kind, _why(error))
        if graph is None:
            eager.update(losses)
            return losses
        told = graph.recording.kind
        eager.update(losses)
        if graph.recording.kind == told:  # else the hook changed the settings; there comes another
            apart = graph.tensors().apart(stand, [losses], [results], before)
            if apart > APART:
                self._refuse(
                    kind,
                    f"the recorded step differs from eager by {apart:.1e}",
                )
            else:
                graph.tensors().take_over(stand)
                kind.graph, kind.choice = graph, self._served
                return results
        return losses

    def _unseen(
        self, kind: Kind, graph: StepGraph, given: Arguments, step: int, losses: Tensor
    ) -> Tensor:
        """A first step of which only the losses are compared."""
        results = self._by(graph, given, step)
        apart = relative([losses], [results])
        if apart > APART:
            self._refuse(kind, f"the recorded losses differ from eager by {apart:.1e}")
        else:
            kind.graph, kind.choice = graph, self._served
        return results

    def _recorded(self, given: Arguments) -> StepGraph:
        eager = self._eager
        program = Program(eager.stack, eager.call, given)
        parted = eager.hook is not None
        if self._recording is None:
            tensors = program.tensors()
            trained = [tensors[i] for i in program.trained]
            self._recording = recording_of(eager.optimizer, trained, holds=parted)
        return StepGraph(program, self._recording, eager.clip, given, parted=parted)

    def _refuse(self, kind: Kind, reason: str) -> None:
        kind.choice, kind.reason = "eager", reason
        if reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"the step runs eagerly: {reason}", ChimeraWarning, stacklevel=5)

    def notes(self) -> list[str]:
        """Whole sentences for ``explain``."""
        kinds = list({id(kind): kind for kind in self.kinds.values()}.values())
        fast = sum(kind.graph is not None for kind in kinds)
        notes = [f"engine {self.rule.name}: {fast} of {len(kinds)} kinds of step are compiled"]
        reasons = dict.fromkeys((kind.choice, kind.reason) for kind in kinds if kind.reason)
        told = {"eager": "runs eagerly", "": "runs eagerly so far"}
        return notes + [
            f"engine {self.rule.name}: a kind of step {told.get(choice, 'is ' + choice)}: {why}"
            for choice, why in reasons
        ]


@torch.no_grad()
def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _why(error: Exception) -> str:
    if isinstance(error, (Uncapturable, Unrecordable)):
        return str(error)
    text = next((line for line in str(error).strip().split("\n") if line.strip()), "")
    return f"it could not be compiled ({type(error).__name__}: {text.strip()[:160]})"
