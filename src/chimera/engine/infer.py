"""Inference by the engines: a Stack or a network called without gradients, by a recording.

Contract: what comes out is what the module gives under ``torch.no_grad()``, buffers included. What
draws random numbers is called eagerly, so that draws are counted as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws.mode import Key
from chimera.engine.choice import Rule, as_engine, rule_of
from chimera.engine.cost import checked_cost
from chimera.engine.fast import APART, why
from chimera.engine.graph import Run
from chimera.engine.kinds import Kind, Kinds, notes_of, shapes_of
from chimera.engine.learned import learn
from chimera.engine.network import Network, standing
from chimera.engine.program import Members, Program, Uncapturable
from chimera.engine.questions import unasked
from chimera.engine.surroundings import around
from chimera.engine.tensors import relative
from chimera.engine.trace import recorded
from chimera.engine.written import check_writes
from chimera.paths.nest import Shape, flatten
from chimera.stack.each import Arguments, Each, arguments
from chimera.stack.explain import Explanation, explain
from chimera.stack.passed_by import of_its_own
from chimera.stack.plan import plan_of
from chimera.stack.stack import Stack


class _Graph:
    """The graph of one kind of call."""

    def __init__(self, program: Program, given: Arguments) -> None:
        self._program = program
        self._shape: Shape | None = None
        self._values: list[Any] = []
        own = [tensor.detach() for tensor in program.tensors()]
        self._count = len(own)
        with torch.no_grad():
            self._graph = recorded(self._outputs, [*own, *program.moving(given)])
        check_writes(self._graph, set(program.buffers), self._count)
        self.cost = checked_cost([self._graph])
        self._run: Run = self._graph

    def compile(self, rule: Rule) -> None:
        self._run = rule.compiler()(self._graph, range(self._count))

    def __call__(self, own: Sequence[Tensor], given: Arguments) -> Any:
        found = iter(self._run(*own, *self._program.moving(given)))
        leaves = [next(found) if value is _TENSOR else value for value in self._values]
        assert self._shape is not None
        return self._shape.rebuild(leaves)

    def _outputs(self, *flat: Tensor) -> list[Tensor]:
        own, moving = list(flat[: self._count]), flat[self._count :]
        written = list(own)
        for place in self._program.buffers:
            written[place] = own[place].clone()
        with unasked():
            output = self._program.outputs(written, moving, torch.zeros((), dtype=torch.int64))
        leaves, self._shape = flatten(output)
        self._values = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for place in self._program.buffers:
            own[place].copy_(written[place])
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


_TENSOR = object()


class Infer:
    """A module called without gradients; made by ``infer``."""

    def __init__(self, module: nn.Module, engine: str, calls: int | None) -> None:
        self.module, self.engine, self._expected = module, engine, calls
        place = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
        self._rule = rule_of(engine, place)
        self._kinds = Kinds("the call", around(module))

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, without gradients; it is called as the module is."""
        module, rule = self.module, self._rule
        if rule is None or (isinstance(module, Stack) and of_its_own(module)):
            return module(*args, **kwargs)
        given = self._arguments(args, kwargs)
        own, modes = self._standing()
        kind = self._kinds.at((shapes_of(given, own), modes), given)
        kind.calls += 1
        if kind.graph is not None:
            if isinstance(module, Stack):
                module.count_call()
            return _apart_from_graph(kind.graph([t.detach() for t in own], given), rule)
        if kind.choice == "eager" or not rule.ready(kind, self._expected):
            return module(*args, **kwargs)
        return self._first(kind, rule, given, own, args, kwargs)

    def _standing(self) -> tuple[list[Tensor], Any]:
        """The module's tensors, and the modes and numbers that a recording holds for good."""
        module = self.module
        if not isinstance(module, Stack):
            return standing(module)
        own = [tensor for group, _ in module.parts() for tensor in group.tensors()]
        return own, (*module.modes().items(), module.constants())

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        if isinstance(self.module, Stack):
            return arguments(args, kwargs, len(self.module))
        leaves, shape = flatten((args, kwargs))
        if any(isinstance(leaf, Each) for leaf in leaves):
            raise TypeError(
                "each(...) marks what differs between the members of a Stack; this is one network"
            )
        return Arguments(leaves, [False] * len(leaves), shape)

    def _first(
        self,
        kind: Kind,
        rule: Rule,
        given: Arguments,
        own: Sequence[Tensor],
        args: Any,
        kwargs: Any,
    ) -> Any:
        """A call both ways, of which the eager one counts."""
        before = [tensor if isinstance(tensor, nn.Parameter) else tensor.clone() for tensor in own]
        drawn = torch.get_rng_state()
        output = self.module(*args, **kwargs)
        try:
            if not torch.equal(drawn, torch.get_rng_state()):
                raise Uncapturable("it draws random numbers")
            graph = kind.recorded = kind.recorded or self._recorded(kind, given)
            if rule.worth(kind, graph.cost, self._expected):
                graph.compile(rule)
                stand = [tensor.detach() for tensor in before]
                other = graph(stand, given)
                apart = max(
                    relative(*_tensors(output, other)), relative(self._standing()[0], stand)
                )
                if apart > APART:
                    raise Uncapturable(f"the recorded call differs from eager by {apart:.1e}")
                kind.graph, kind.choice = graph, rule.makes
        except Exception as error:  # noqa: BLE001 - of recording or of the compiler: eager serves
            self._kinds.refuse(kind, why(error))
        return output

    def _recorded(self, kind: Kind, given: Arguments) -> _Graph:
        with self._kinds.surroundings.untouched(kind.state, given):
            return _Graph(self._program(given), given)

    def _program(self, given: Arguments) -> Program:
        module = self.module
        if not isinstance(module, Stack):
            return Network(module, _call, given)
        learn(module, _call, given, Key(module.seed, 0))
        if any(plan_of(group, given).draws for group, _ in module.parts()):
            raise Uncapturable("it draws random numbers")
        return Members(module, _call, given)

    @property
    def settled(self) -> bool:
        """Whether it is chosen what takes calls of every kind that came, and one did."""
        chosen = [kind.choice for kind in self._kinds]
        return self._rule is None or (bool(chosen) and all(chosen))

    def __explain__(self) -> Explanation:
        told = explain(self.module)
        rows, notes = getattr(told, "rows", ()), getattr(told, "notes", (str(told),))
        if self._rule is None:
            return Explanation(rows, (*notes, "engine eager: as asked"))
        if isinstance(self.module, Stack) and (around := of_its_own(self.module)):
            why_not = f"engine {self._rule.name}: calls run eagerly: the stack has {around}"
            return Explanation(rows, (*notes, why_not))
        own = notes_of(self._rule.name, self._kinds)
        return Explanation(rows, (*notes, *own))


def _call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return module(*args, **kwargs)


def _tensors(one: Any, other: Any) -> tuple[list[Tensor], list[Tensor]]:
    ours, theirs = (
        [leaf for leaf in flatten(value)[0] if isinstance(leaf, Tensor)] for value in (one, other)
    )
    return ours, theirs


def _apart_from_graph(output: Any, rule: Rule) -> Any:
    """Results in memory of their own: a CUDA graph writes into the same at each call."""
    if rule.makes != "graphed":
        return output
    leaves, shape = flatten(output)
    return shape.rebuild([leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves])


def infer(module: nn.Module, *, engine: str = "auto", calls: int | None = None) -> Infer:
    """A callable that gives what ``module`` gives, without gradients, by an engine.

    Args:
        module: a Stack, or one network. Its modes stay as they are: call ``module.eval()`` first.
        engine: as for ``train_step``.
        calls: how many calls there will be, for ``"auto"``.

    Returns:
        A callable with the calling convention of ``module``.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: there is no such engine, it needs another device, or ``calls`` is below 1.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a ch.Stack or a module, got {type(module).__name__}")
    if calls is not None and (isinstance(calls, bool) or not isinstance(calls, int) or calls < 1):
        raise ValueError(f"calls is how many calls there will be, 1 or more; got {calls!r}")
    return Infer(module, as_engine(engine), calls)
