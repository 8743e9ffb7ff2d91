"""Members in chunks, where the activations of all of them at once would not fit.

Contract: losses, gradients, draws and buffers are those of all members at once; a chunk's
activations are gone before the next begins. The engine takes a chunk as it takes a step: eagerly,
until its rule is ready to record and compile; then each chunk is recorded, and those that differ in
their members alone share what was compiled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chimera.draws.mode import Key
from chimera.engine.choice import Rule
from chimera.engine.eager import Eager
from chimera.engine.fast import APART, Turns, why
from chimera.engine.graph import StepGraph
from chimera.engine.kinds import Kind, Kinds, notes_of, shapes_of
from chimera.engine.learned import learn
from chimera.engine.part import Part
from chimera.engine.shared import shared
from chimera.engine.tensors import Tensors, relative
from chimera.stack.each import Arguments, index_of

CHUNKS = "chunks"


class Chunks:
    """The steps of a Stack, chunk by chunk.

    Args:
        eager: whose step it is.
        count: how many chunks.
        name: of the kind of step, the shapes of its arguments.
        told: why, for ``explain``.
        rule: says when chunks are recorded and compiled; None for never.
        chosen: what took them before the run was stopped, where it was.
    """

    def __init__(
        self, eager: Eager, count: int, name: str, told: str, rule: Rule | None, chosen: str = ""
    ) -> None:
        self._eager, self.count, self.name, self.told = eager, count, name, told
        self._rule, self._chosen = rule, chosen
        self._kinds = Kinds("the step", eager.surroundings)

    @property
    def settled(self) -> bool:
        """Whether it is chosen what takes the chunks."""
        chosen = [kind.choice for kind in self._kinds]
        return self._rule is None or (bool(chosen) and all(chosen))

    @property
    def choice(self) -> str:
        """What a run records of it, and ``chunks_of`` is told when it goes on."""
        chosen = {kind.choice for kind in self._kinds}
        (one,) = chosen if len(chosen) == 1 else ("",)
        return f"{self.count} {CHUNKS}" + (f", {one}" if one else "")

    def notes(self) -> list[str]:
        """Whole sentences for ``explain``."""
        if self._rule is None:
            return [self.told]
        return [*notes_of(self._rule.name, self._kinds), self.told]

    def take(self, given: Arguments, key: Key, expected: int | None = None) -> Tensor:
        """One step; the losses ``[members]``, detached.

        Raises:
            Uncapturable: the members need more than tensor operations.
        """
        eager = self._eager
        learn(eager.stack, eager.call, given, key, eager.surroundings.aside)
        losses = self._gradients(given, key, expected)
        eager.update(losses)
        return losses

    def _gradients(self, given: Arguments, key: Key, expected: int | None) -> Tensor:
        """Leave every gradient on its parameter; the losses ``[members]``."""
        eager = self._eager
        if self._rule is None or not eager.serves(key):
            return self._eagerly(given, key)
        kind = self._kind(given)
        kind.calls += self.count
        if kind.graph is not None:
            turns = Turns(kind, self._rule.makes) if not kind.choice else None
            if turns is None:
                return self._by(kind.graph, given, key)
            return turns.taken(
                lambda: self._eagerly(given, key), lambda: self._by(kind.graph, given, key), given
            )
        many = None if expected is None else expected * self.count
        if kind.choice == "eager" or not self._ready(kind, many):
            return self._eagerly(given, key)
        return self._first(kind, given, key, many)

    def _kind(self, given: Arguments) -> Kind:
        key = shapes_of(given, self._eager.own()), self._eager.kind(given)
        return self._kinds.at(key, given, "a chunk of ")

    def _ready(self, kind: Kind, expected: int | None) -> bool:
        assert self._rule is not None
        if self._chosen == "eager":
            kind.choice, kind.reason = "eager", "as the run chose before"
        return kind.choice == "" and (bool(self._chosen) or self._rule.ready(kind, expected))

    def _parts(self, given: Arguments) -> list[Part]:
        program = self._eager.program(given)
        spans = [program.spans(part, self.count) for part in range(self.count)]
        return [Part(program, own, given) for own in spans if any(own)]

    def _eagerly(self, given: Arguments, key: Key) -> Tensor:
        self._eager.optimizer.zero_grad()
        parts = self._parts(given)
        return _in_order(parts, [self._one(part, given, key) for part in parts])

    def _one(self, part: Part, given: Arguments, key: Key) -> Tensor:
        """The gradients of one chunk, by autograd; its losses."""
        rows = part.tensors()
        step = torch.as_tensor(key.step, device=rows[0].device)
        trained = set(part.trained)
        own = [tensor.detach().requires_grad_(i in trained) for i, tensor in enumerate(rows)]
        losses = part.outputs(own, part.moving(given), step)
        wanted = [own[i] for i in part.trained]
        grads = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
        self._put(part, rows, grads)
        detached: Tensor = losses.detach()
        return detached

    def _put(self, part: Part, rows: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        owners = self._eager.own()
        for i, grad in zip(part.trained, grads, strict=True):
            if grad is not None:
                _gradient(owners[i], rows[i]).copy_(grad)

    def _by(self, graphs: Sequence[tuple[Part, StepGraph]], given: Arguments, key: Key) -> Tensor:
        """The gradients by recordings."""
        assert isinstance(key.step, int)
        self._eager.optimizer.zero_grad()
        found = []
        for part, graph in graphs:
            tensors = graph.tensors()

            def between(losses: Tensor, grads: list[Tensor | None]) -> None:
                self._put(part, tensors.own, grads)  # noqa: B023 - called within this turn

            found.append(graph.run(tensors, given, key.step, between).clone())
        return _in_order([part for part, _ in graphs], found)

    def _first(self, kind: Kind, given: Arguments, key: Key, expected: int | None) -> Tensor:
        """A step both ways, of which the eager one counts."""
        eager, rule = self._eager, self._rule
        assert rule is not None
        assert isinstance(key.step, int)
        eager.optimizer.zero_grad()
        parts = self._parts(given)
        try:
            if kind.recorded is None:
                with eager.surroundings.untouched(kind.state, given):
                    kind.recorded = [
                        (part, StepGraph(part, None, None, given, parted=True)) for part in parts
                    ]
            cost = kind.recorded[0][1].cost
            graphs = kind.recorded if self._chosen or rule.worth(kind, cost, expected) else []
            if self._chosen:
                kind.reason = "as the run chose before"
            compiler = rule.compiler()
            compiler = compiler if rule.makes == "graphed" else shared(compiler)
            for _, graph in graphs:
                graph.compile(compiler)
        except Exception as error:  # noqa: BLE001 - of recording or of the compiler: eager serves
            graphs = []
            self._kinds.refuse(kind, why(error))
        found = []
        for place, part in enumerate(parts):
            before = [tensor.detach().clone() for tensor in self._buffers(part)]
            found.append(self._one(part, given, key))
            if not graphs:
                continue
            try:
                apart = self._apart(part, graphs[place][1], given, key.step, before, found[-1])
            except Exception as error:  # noqa: BLE001 - of the compiler: eager serves
                graphs = []
                self._kinds.refuse(kind, why(error))
                continue
            if apart > APART:
                graphs = []
                self._kinds.refuse(kind, f"the recorded chunk differs from eager by {apart:.1e}")
        if graphs:
            kind.graph = graphs
            kind.choice = "" if rule.clocked and not self._chosen else rule.makes
        return _in_order(parts, found)

    def _buffers(self, part: Part) -> list[Tensor]:
        tensors = part.tensors()
        return [tensors[place] for place in part.buffers]

    def _apart(
        self,
        part: Part,
        graph: StepGraph,
        given: Arguments,
        step: int,
        before: Sequence[Tensor],
        losses: Tensor,
    ) -> float:
        """How far a recording is from the losses, gradients and buffers that are there."""
        rows = part.tensors()
        stand = Tensors([row.detach() for row in rows], [], [])
        for place, buffer in zip(part.buffers, before, strict=True):
            stand.own[place] = buffer
        owners, gaps = self._eager.own(), [0.0]

        def between(others: Tensor, grads: list[Tensor | None]) -> None:
            gaps.append(relative([losses], [others]))
            made = [(i, g) for i, g in zip(part.trained, grads, strict=True) if g is not None]
            gaps.append(
                relative([_gradient(owners[i], rows[i]) for i, _ in made], [g for _, g in made])
            )

        graph.run(stand, given, step, between)
        gaps.append(relative(self._buffers(part), before))
        return max(gaps)


def _in_order(parts: Sequence[Part], losses: Sequence[Tensor]) -> Tensor:
    """The losses of all members, in the order of the stack."""
    whole = torch.cat(list(losses))
    positions = [position for part in parts for position in part.positions]
    return torch.empty_like(whole).index_copy_(0, index_of(positions, whole.device), whole)


def _gradient(parameter: Tensor, rows: Tensor) -> Tensor:
    """The rows of a parameter's gradient that belong to ``rows``, a part of it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    start = (rows.storage_offset() - parameter.storage_offset()) // max(parameter.stride(0), 1)
    return parameter.grad[start : start + len(rows)]
