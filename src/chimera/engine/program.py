"""What a step computes, as a function of tensors: the losses of all members of a Stack.

Contract: ``losses`` gives what ``Stack.run`` gives, for tensors that stand for the stack's own; it
leaves nothing behind but what it wrote into them. What is more than tensor operations is refused.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from chimera.draws.mode import Key
from chimera.engine.learned import learn
from chimera.paths.hooks import any_hooks, hooks_of_all
from chimera.stack.batched import Call, run_batched
from chimera.stack.each import Arguments, index_of
from chimera.stack.group import Group
from chimera.stack.outputs import Outputs, merge
from chimera.stack.plan import ONLY_MEMBER, plan_of
from chimera.stack.rules.autocast import autocast_of
from chimera.stack.stack import Stack


class Uncapturable(Exception):
    """A call that is more than tensor operations; the text says why."""


class Program(Protocol):
    """One kind of call, of a Stack or of one network."""

    trained: list[int]
    buffers: list[int]
    shape: tuple[int, ...]

    def tensors(self) -> list[Tensor]: ...
    def moving(self, given: Arguments) -> list[Tensor]: ...
    def outputs(self, tensors: Sequence[Tensor], moving: Sequence[Tensor], step: Tensor) -> Any: ...


class Members:
    """One kind of call of a Stack.

    Args:
        stack: the members.
        call: gives one member's loss.
        given: arguments of all members; others of the same shapes may stand for them.

    Attributes:
        trained: places, among ``tensors()``, of what gets a gradient.
        buffers: places of the buffers.
        shape: of the losses.

    Raises:
        Uncapturable: the call is more than tensor operations.
    """

    def __init__(self, stack: Stack, call: Call, given: Arguments) -> None:
        self._stack, self._call, self._given = stack, call, given
        self._groups = stack.parts()
        self.shape: tuple[int, ...] = (len(stack),)
        if hooks_of_all():
            raise Uncapturable("hooks of all modules are Python")
        learn(stack, call, given, Key(stack.seed, 0))
        for group, _ in self._groups:
            _check(group, given)
        tensors = self.tensors()
        if any_hooks(tensors):
            raise Uncapturable("hooks of parameters are Python")
        self.trained = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]
        self.buffers = [i for i, t in enumerate(tensors) if not isinstance(t, nn.Parameter)]

    def tensors(self) -> list[Tensor]:
        """The stacked tensors of all groups."""
        return [tensor for group, _ in self._groups for tensor in group.tensors()]

    def moving(self, given: Arguments) -> list[Tensor]:
        """The tensors among the arguments."""
        return [leaf for leaf in given.leaves if isinstance(leaf, Tensor)]

    def outputs(self, tensors: Sequence[Tensor], moving: Sequence[Tensor], step: Tensor) -> Any:
        """What the members give ``[members, ...]``.

        Args:
            tensors: to stand for ``tensors()``; buffers among them are changed in place.
            moving: to stand for ``moving(given)``.
            step: which step's draws.

        Raises:
            Uncapturable: the members print, or write state.
        """
        arguments = iter(moving)
        leaves = [next(arguments) if isinstance(x, Tensor) else x for x in self._given.leaves]
        given = Arguments(leaves, self._given.own, self._given.shape)
        with silent():
            return merge(self._outputs(list(tensors), given, step))

    def spans(self, part: int, parts: int) -> list[range]:
        """The places in each group of the members of one of several parts."""
        sizes = [len(group) for group, _ in self._groups]
        return [range(size * part // parts, size * (part + 1) // parts) for size in sizes]

    def positions(self, spans: Sequence[range]) -> list[int]:
        """The places in the stack of the members of ``spans``, in order."""
        pairs = zip(self._groups, spans, strict=True)
        return sorted(p for (g, _), span in pairs for p in g.positions[span.start : span.stop])

    def narrowed(self, tensors: Sequence[Tensor], spans: Sequence[range]) -> list[Tensor]:
        """The rows of ``spans``, in the memory of ``tensors``."""
        counts = [len(group.slots) for group, _ in self._groups]
        every = [span for span, count in zip(spans, counts, strict=True) for _ in range(count)]
        return [t[span.start : span.stop] for t, span in zip(tensors, every, strict=True)]

    def of_part(
        self, tensors: list[Tensor], given: Arguments, step: Tensor, spans: Sequence[range]
    ) -> list[Outputs]:
        """What the members of ``spans`` give; positions are places in the stack.

        Args:
            tensors: what ``narrowed`` gave, or stand-ins.
            given: the arguments of all members.
            step: which step's draws.
            spans: the members.
        """
        return self._outputs(tensors, given, step, spans)

    def _outputs(
        self,
        tensors: list[Tensor],
        given: Arguments,
        step: Tensor,
        spans: Sequence[range] | None = None,
    ) -> list[Outputs]:
        outputs: list[Outputs] = []
        key = Key(self._stack.seed, step)
        for number, (group, members) in enumerate(self._groups):
            mine, tensors = tensors[: len(group.slots)], tensors[len(group.slots) :]
            plan = plan_of(group, given)
            span = range(len(group)) if spans is None else spans[number]
            if not span:
                continue
            positions = group.positions[span.start : span.stop]
            whole = len(positions) == len(self._stack)
            ran = run_batched(
                group,
                self._call,
                given if whole else given.take(index_of(positions, group.device)),
                key=key if plan.draws else None,
                members=members[span.start : span.stop],
                ruled=plan.ruled,
                tensors=mine,
                span=None if len(span) == len(group) else span,
            )
            if ran.slots or ran.attributes or ran.buffers or ran.parameters:
                raise Uncapturable("the members write state in forward")
            ran.output.positions = list(positions)
            outputs.append(ran.output)
        return outputs


class _Silent(io.StringIO):
    """Where nothing may be written."""

    def write(self, text: str) -> int:
        raise Uncapturable("the members print")


@contextlib.contextmanager
def silent() -> Any:
    """Refuse what is printed inside.

    Raises:
        Uncapturable: something was.
    """
    with contextlib.redirect_stdout(_Silent()):
        yield


def _check(group: Group, given: Arguments) -> None:
    plan = plan_of(group, given)
    if plan.alone not in (None, ONLY_MEMBER):
        raise Uncapturable(f"members run one by one: {plan.alone}")
    assert not plan.fresh
    if plan.casts or autocast_of(group.device) is not None:
        raise Uncapturable("autocast chooses the dtypes")
    if plan.conditions:
        raise Uncapturable("members ask tensors for Python values")
    if plan.mended:
        raise Uncapturable("members call a function that torch.vmap computes wrongly")
    if plan.guarded:
        raise Uncapturable("members catch errors of what they compute")
    if plan.writes or plan.copies:
        raise Uncapturable("members change their inputs or parameters in place")
