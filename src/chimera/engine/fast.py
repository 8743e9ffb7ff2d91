"""Steps by recordings: made when a rule says so, checked against eager before they are used.

A kind of step starts eagerly. When the rule is ready it is recorded, and run on copies beside the
eager step: where the two agree, the recording's result counts, and it serves from then on. What
has no recording stays eager, which is said once and shown by ``explain``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws.mode import Key
from chimera.engine.choice import Rule
from chimera.engine.eager import Eager
from chimera.engine.graph import Between, StepGraph
from chimera.engine.kinds import Kind, Kinds, notes_of, shapes_of
from chimera.engine.program import Uncapturable
from chimera.engine.tensors import relative
from chimera.engine.trace import asked_a_value
from chimera.optim.recording import Recording, Unrecordable
from chimera.optim.recordings import recording_of
from chimera.stack.each import Arguments

APART = 1e-3
# A recording's first step is taken on copies, for the eager one to be compared with. Of a stack
# with more bytes than this only the losses are compared.
COPIED_UP_TO = 64 << 20
# Where the engine is measured: so many steps of each candidate, in turn.
ROUNDS = 5


class Fast:
    """Steps of a Stack by recordings where there are any.

    Args:
        eager: takes the same steps eagerly.
        rule: says when a kind of step is recorded and compiled.
    """

    def __init__(self, eager: Eager, rule: Rule) -> None:
        self._eager, self.rule = eager, rule
        self.kinds = Kinds("the step", eager.surroundings)
        self._recording: Recording | None = None
        self.preferred: dict[str, str] = {}

    def take(self, given: Arguments, key: Key, expected: int | None) -> Tensor:
        """One step; the losses ``[members]``, detached.

        Args:
            given: arguments of all members.
            key: of the draws; another seed than the stack's, or another first call, runs eagerly.
            expected: how many steps of this kind the run has, where that is known.
        """
        eager = self._eager
        if not eager.serves(key):
            return eager.take(given, key)
        assert isinstance(key.step, int)
        kind = self.kinds.at(self._key(given), given)
        kind.calls += 1
        if kind.graph is not None:
            graph, step = kind.graph, key.step
            if kind.choice:
                return self._by(graph, given, step)
            turns = Turns(kind, self.rule.makes)
            return turns.taken(
                lambda: eager.take(given, key), lambda: self._by(graph, given, step), given
            )
        if kind.choice == "eager" or not self._ready(kind, expected):
            return eager.take(given, key)
        return self._first(kind, given, key, expected)

    def _ready(self, kind: Kind, expected: int | None) -> bool:
        known = self.preferred.get(kind.name)
        if known == "eager":
            kind.choice, kind.reason = "eager", "as the run chose before"
            return False
        return known is not None or self.rule.ready(kind, expected)

    def _key(self, given: Arguments) -> Any:
        told, kind = None, self._eager.kind(given)
        if self._recording is not None:
            try:
                told = self._recording.kind_at(kind)
            except Unrecordable as error:
                told = str(error)
        return shapes_of(given, self._eager.own()), kind, told

    def _by(self, graph: StepGraph, given: Arguments, step: int) -> Tensor:
        """A step that a recording takes."""
        assert graph.recording is not None
        if not graph.parted:
            self._eager.optimizer.zero_grad()
        before = self._eager.optimizer.steps
        losses = graph.run(graph.tensors(), given, step, self._between(graph))
        if self._eager.optimizer.steps == before:
            graph.recording.done()
        return losses.clone() if self.rule.makes == "graphed" else losses

    def _between(self, graph: StepGraph) -> Between | None:
        if not graph.parted:
            return None
        assert graph.recording is not None
        eager, recording, kind = self._eager, graph.recording, graph.recording.kind

        def between(losses: Tensor, grads: list[Tensor | None]) -> list[Tensor | None] | None:
            parameters = graph.parameters()
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            assert eager.hook is not None
            eager.hook(losses)
            found = [parameter.grad for parameter in parameters]
            alike = [grad is None for grad in found] == [grad is None for grad in grads]
            if alike and recording.kind == kind:
                return found
            eager.move()  # the settings are others than were recorded
            return None

        return between

    def _first(self, kind: Kind, given: Arguments, key: Key, expected: int | None) -> Tensor:
        """A step both ways; an error of the recording or of the compiler leaves the eager one."""
        eager, step = self._eager, key.step
        assert isinstance(step, int)
        own = eager.own()
        buffers = [tensor for tensor in own if not isinstance(tensor, nn.Parameter)]
        small = sum(tensor.nbytes for tensor in own) <= COPIED_UP_TO
        before = [tensor.detach().clone() for tensor in (own if small else buffers)]
        losses = eager.gradients(given, key)
        if len(eager.own()) != len(own):  # the next step is of another kind
            kind.choice, kind.reason = "eager", "the step made or dropped tensors of the members"
            eager.update(losses)
            return losses
        graph: StepGraph | None = None
        try:
            graph = kind.recorded = kind.recorded or self._recorded(kind, given)
            self.kinds.put(self._key(given), kind)
            if self._worth(kind, graph, expected):
                graph.compile(self.rule.compiler())
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
            self.kinds.put(self._key(given), kind)
            self.kinds.refuse(kind, why(error))
        if graph is None:
            eager.update(losses)
            return losses
        assert graph.recording is not None
        told = graph.recording.kind
        eager.update(losses)
        if graph.recording.kind == told:  # else the hook changed the settings; there comes another
            apart = graph.tensors().apart(stand, [losses], [results], before)
            if apart > APART:
                self.kinds.refuse(kind, f"the recorded step differs from eager by {apart:.1e}")
            else:
                graph.tensors().take_over(stand)
                self._serve(kind, graph)
                return results
        return losses

    def _worth(self, kind: Kind, graph: StepGraph, expected: int | None) -> bool:
        if kind.name in self.preferred:
            kind.reason = "as the run chose before"
            return True
        return self.rule.worth(kind, graph.cost, expected)

    def _serve(self, kind: Kind, graph: StepGraph) -> None:
        kind.graph = graph
        if not self.rule.clocked or kind.name in self.preferred:
            kind.choice = self.rule.makes

    def _unseen(
        self, kind: Kind, graph: StepGraph, given: Arguments, step: int, losses: Tensor
    ) -> Tensor:
        """A first step of which only the losses are compared."""
        results = self._by(graph, given, step)
        apart = relative([losses], [results])
        if apart > APART:
            self.kinds.refuse(kind, f"the recorded losses differ from eager by {apart:.1e}")
        else:
            self._serve(kind, graph)
        return results

    def _recorded(self, kind: Kind, given: Arguments) -> StepGraph:
        eager = self._eager
        with eager.surroundings.untouched(kind.state, given):
            program = eager.program(given)
            parted = eager.hook is not None
            if self._recording is None:
                tensors = program.tensors()
                trained = [tensors[i] for i in program.trained]
                self._recording = recording_of(eager.optimizer, trained, holds=parted)
            return StepGraph(program, self._recording, eager.clip, given, parted=parted)

    def notes(self) -> list[str]:
        """Whole sentences for ``explain``."""
        return notes_of(self.rule.name, self.kinds)

    def prefer(self, choices: Mapping[str, str]) -> None:
        """Choose as was chosen before, by the names of kinds."""
        self.preferred = dict(choices)


class Turns:
    """The calls of a kind while its engine is measured: each candidate in turn, then the faster.

    Args:
        kind: which is served by a recording.
        makes: the engine that the recording is for.
    """

    def __init__(self, kind: Kind, makes: str) -> None:
        self._kind, self._names = kind, ("eager", makes)

    def taken(
        self, eagerly: Callable[[], Tensor], recorded: Callable[[], Tensor], given: Arguments
    ) -> Tensor:
        """A call by the candidate whose turn it is; after the last round the faster is chosen."""
        kind, names = self._kind, self._names
        name = min(names, key=lambda one: len(kind.seconds.setdefault(one, [])))
        start = _now(given)
        losses = eagerly() if name == "eager" else recorded()
        kind.seconds[name].append(_now(given) - start)
        if all(len(kind.seconds[one]) >= ROUNDS for one in names):
            found = {one: statistics.median(kind.seconds[one]) for one in names}
            kind.choice = min(names, key=found.__getitem__)
            told = ", ".join(f"{one} {1000 * seconds:.2f} ms" for one, seconds in found.items())
            kind.reason = f"measured: {told}"
            if kind.choice == "eager":
                kind.graph = None
        return losses


@torch.no_grad()
def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _now(given: Arguments) -> float:
    devices = {leaf.device.type for leaf in given.leaves if isinstance(leaf, Tensor)}
    if devices - {"cpu"}:
        torch.accelerator.synchronize()
    return time.perf_counter()


def why(error: Exception) -> str:
    """In a line, why a recording or its compilation failed."""
    if isinstance(error, (Uncapturable, Unrecordable)):
        return str(error)
    if asked_a_value(error):
        return "it asks a tensor for a Python value"
    text = next((line for line in str(error).strip().split("\n") if line.strip()), "")
    return f"it could not be compiled ({type(error).__name__}: {text.strip()[:160]})"
