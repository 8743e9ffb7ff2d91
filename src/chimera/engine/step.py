"""One training step: of all members of a Stack, or of one network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.inputs import Inputs, as_inputs
from chimera.draws.mode import Key, overridden
from chimera.engine.choice import as_engine, rule_of
from chimera.engine.chunking import check_memory, chunks_of
from chimera.engine.chunks import Chunks
from chimera.engine.eager import Eager
from chimera.engine.fast import Fast, why
from chimera.engine.kinds import name_of
from chimera.engine.program import Uncapturable
from chimera.engine.single import Single, plain_arguments
from chimera.optim.clip import Clip
from chimera.optim.optimizer import Optimizer
from chimera.optim.recording import Unrecordable
from chimera.paths.nest import Shape
from chimera.paths.notice import ChimeraWarning
from chimera.stack.each import Arguments, Each, arguments, check_axis
from chimera.stack.explain import Explanation, explain
from chimera.stack.passed_by import of_its_own
from chimera.stack.rules import stacked_loss
from chimera.stack.stack import Stack

Loss = Callable[..., Tensor]
Hook = Callable[[Tensor], None]
_STATES = "states of Python's values"
Limit = float | Sequence[float] | Tensor | None


class TrainStep:
    """A training step; made by ``train_step``.

    Args:
        module: a Stack, or one network.
        loss: of one member.
        optimizer: of the module's parameters.
        before_update: called with the losses before the update.
        clip: the largest norm of a member's gradients.
        engine: what takes the step.
        steps: how many there will be, where that is known.
        memory: the most bytes that a step of a Stack may take.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        optimizer: Any,
        before_update: Hook | None = None,
        clip: Limit = None,
        engine: str = "auto",
        steps: int | None = None,
        memory: int | None = None,
    ) -> None:
        self._memory = memory
        self._shapes: dict[tuple[int, int], Shape] = {}
        self._chunks: dict[Any, Chunks | None] = {}
        self._unchunked = ""
        self._preferred: dict[str, str] = {}
        self.module, self.optimizer, self.engine = module, optimizer, engine
        self._steps = steps
        place = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
        rule = rule_of(engine, place)
        self._fast: Fast | None = None
        if isinstance(module, Stack):
            self._loss = stacked_loss(loss)
            limit = None if clip is None else Clip(module, clip)
            self._eager = Eager(module, self._loss_of, loss, optimizer, before_update, limit)
            self._fast = None if rule is None else Fast(self._eager, rule)
        else:
            self._loss = loss
            most = None if clip is None else _one_limit(clip)
            self._single = Single(module, self._loss_of, loss, optimizer, before_update, most, rule)

    def __call__(self, inputs: Any, *targets: Any) -> Tensor:
        """Take one step; see ``take``."""
        return self.take(inputs, targets)

    def take(self, inputs: Any, targets: Sequence[Any], expected: int | None = None) -> Tensor:
        """Take one step.

        Args:
            inputs: one input, or ``ch.inputs(...)`` for several; shared by all members, or one a
                member under ``ch.each``.
            targets: what the loss takes after the output; likewise.
            expected: how many steps with arguments of these shapes the run has, where that is
                not ``steps``, as for the last, short batch of an epoch.

        Returns:
            The loss of every member before the step ``[members]``, detached; of one network one
            number.

        Raises:
            ValueError: a member's loss is no single number, or depends on no parameter.
            TypeError: the loss gives no tensor.
            ValueError: the stack itself, not its members, has hooks or a forward of its own.
        """
        given, expected = as_inputs(inputs), expected or self._steps
        stack = self.module
        if not isinstance(stack, Stack):
            return self._single.take(plain_arguments(given, targets), expected)
        around = of_its_own(stack)
        if around:
            raise ValueError(
                f"stack has {around}, which a step passes by: it runs every member with its loss. "
                "Put it on the members before they are stacked, or step by hand: "
                "(loss of stack(x)).backward() and optimizer.step()"
            )
        known = self._arguments(given, tuple(targets), len(stack))
        key = overridden(Key(stack.seed, self.optimizer.steps))
        chunks = self._chunks_of(known, key)
        if chunks is not None:
            return chunks.take(known, key, expected)
        if self._fast is None:
            return self._eager.take(known, key)
        return self._fast.take(known, key, expected)

    def _arguments(self, given: Inputs, targets: tuple[Any, ...], size: int) -> Arguments:
        """The arguments of all members; of plain tensors, the shape that the last such ones had."""
        flat = (*given.args, *targets)
        plain = not given.kwargs and all(
            isinstance(value.value if isinstance(value, Each) else value, Tensor) for value in flat
        )
        key = (len(given.args), len(targets))
        if not plain or key not in self._shapes:
            known = arguments((given.args, given.kwargs, targets), {}, size)
            if plain:
                self._shapes[key] = known.shape
            return known
        own = [isinstance(value, Each) for value in flat]
        leaves = [value.value if isinstance(value, Each) else value for value in flat]
        for leaf, mine in zip(leaves, own, strict=True):
            if mine:
                check_axis(leaf, size)
        return Arguments(leaves, own, self._shapes[key])

    def _chunks_of(self, given: Arguments, key: Key) -> Chunks | None:
        """In what chunks such a step runs, found once."""
        kind = given.familiar or name_of(given)
        if kind not in self._chunks:
            try:
                before = self._preferred.get(name_of(given))
                rule = None if self._fast is None else self._fast.rule
                found = chunks_of(self._eager, given, key, self._memory, rule, before)
            except (Uncapturable, Unrecordable, RuntimeError) as error:
                found = None
                self._unchunked = f"members do not run in chunks: {why(error)}"
                if self._memory is not None:
                    warnings.warn(self._unchunked, ChimeraWarning, stacklevel=4)
            self._chunks[kind] = found
        return self._chunks[kind]

    def _loss_of(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs, named, targets = args
        return self._loss(module(*inputs, **named), *targets)

    @property
    def settled(self) -> bool:
        """Whether it is chosen what takes steps of every kind that came, and one did."""
        if self.engine == "eager":
            return True
        parts = [chunks.settled for chunks in self._chunks.values() if chunks is not None]
        if parts:
            return all(parts)
        kinds = self._fast.kinds if self._fast is not None else self._single.kinds
        chosen = [kind.choice for kind in kinds]
        return bool(chosen) and all(chosen)

    @property
    def choices(self) -> dict[str, str]:
        """What takes the steps, by the shapes of their arguments; what is open is left out."""
        kinds = [] if self._fast is None else list(self._fast.kinds)
        parts = {c.name: c.choice for c in self._chunks.values() if c is not None}
        chosen = {kind.name: kind.choice for kind in kinds if kind.choice} | parts
        states = 1 if self._fast is None else self._eager.surroundings.count
        return chosen | ({_STATES: str(states)} if states > 1 else {})

    def prefer(self, choices: Mapping[str, str]) -> None:
        """Choose what another step like this one chose, so that a run goes on as it began."""
        self._preferred = {name: choice for name, choice in choices.items() if name != _STATES}
        if self._fast is not None:
            self._fast.prefer(self._preferred)
            self._eager.surroundings.earlier = int(choices.get(_STATES, 1)) - 1

    def __explain__(self) -> Explanation:
        if not isinstance(self.module, Stack):
            told = explain(self.module)
            rows, notes = getattr(told, "rows", ()), getattr(told, "notes", (str(told),))
            return Explanation(rows, (*notes, *self._single.notes()))
        told = self.module.__explain__()
        own = ["engine eager: as asked"] if self._fast is None else self._fast.notes()
        for chunks in self._chunks.values():
            own += [] if chunks is None else chunks.notes()
        own += [self._unchunked] * bool(self._unchunked)
        return Explanation(told.rows, (*told.notes, *own))


def _one_limit(clip: Any) -> float:
    if isinstance(clip, bool) or not isinstance(clip, int | float):
        raise TypeError(f"clip is one number for one network; got {clip!r:.60}")
    if not clip >= 0:
        raise ValueError(f"clip is 0 or more; got {clip:g}.")
    return float(clip)


def train_step(
    stack: nn.Module,
    loss: Loss,
    optimizer: Optimizer | torch.optim.Optimizer,
    *,
    before_update: Hook | None = None,
    clip: Limit = None,
    engine: str = "auto",
    steps: int | None = None,
    memory: int | None = None,
) -> TrainStep:
    """A callable that trains every member of a Stack, or one network, by one step.

    Args:
        stack: the members, a Stack; or any other module, which is one network.
        loss: ``loss(output, *targets)`` of ONE member, one number.
        optimizer: a ``ch.optim`` optimizer over the stack's parameters; of one network one of
            ``torch.optim``, whose own step follows what is recorded.
        before_update: called with the losses ``[members]`` once every parameter has its gradient,
            before the optimizer moves them.
        clip: the largest L2 norm that all gradients of a member together may have, a number or
            one per member; larger ones are scaled down, as ``torch.nn.utils.clip_grad_norm_``
            does for a module alone. After ``before_update``; None clips nothing.
        engine: ``"eager"``; ``"compiled"``: the whole step of a kind that repeats is recorded as
            one graph, compiled, and used once it agrees with eager; ``"graphed"``: recorded, and
            captured in a CUDA graph; ``"auto"``: the one of these that is fastest over the whole
            run, by a rule; ``"measure"``: by a clock. A step that needs Python of its members
            stays eager, with a ``ch.ChimeraWarning``; ``explain`` says why. The draws are the
            same. A recorded step leaves no gradients unless ``before_update`` is given.
        memory: the most bytes that a step of a Stack may take in all; four fifths of the device's
            memory unless given. Where a prediction says that it takes more, members run in
            chunks, with equal results; ``explain`` says in how many.
        steps: how many steps the run has, for ``"auto"``; unless given, it is compiled when it
            has been called as often as would have paid for it.

    Returns:
        ``step(inputs, *targets)``, which gives the members' losses ``[members]``.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the optimizer holds none of the stack's parameters; ``clip`` is below 0, or
            not one per member; ``engine`` is unknown.
    """
    if not isinstance(stack, nn.Module):
        raise TypeError(f"stack must be a ch.Stack or a module, got {type(stack).__name__}")
    if isinstance(loss, type) or not callable(loss):
        mend = "; give an instance of the class" if isinstance(loss, type) else ""
        raise TypeError(f"loss must be callable as loss(output, *targets), got {loss!r:.60}{mend}")
    check_optimizer(stack, optimizer)
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps is how many steps the run has, 1 or more; got {steps!r}")
    check_memory(memory)
    if memory is not None and not isinstance(stack, Stack):
        raise ValueError("memory: one network does not run in chunks; leave it out")
    return TrainStep(stack, loss, optimizer, before_update, clip, as_engine(engine), steps, memory)


def check_optimizer(module: nn.Module, optimizer: Any) -> None:
    """Refuse an optimizer that cannot train ``module``."""
    what = "stack" if isinstance(module, Stack) else "network"
    if isinstance(module, Stack):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer must be a ch.optim optimizer, such as ch.optim.AdamW(stack, lr=1e-3), "
                f"got {type(optimizer).__name__}"
            )
        held = {id(parameter) for parameter in optimizer.parameters()}
    else:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                "optimizer of one network must be one of torch.optim, such as "
                f"torch.optim.AdamW(network.parameters()), got {type(optimizer).__name__}; "
                "ch.Stack([network]) makes a stack of a single module"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise TypeError("optimizer: LBFGS takes several passes a step, and a step has one")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held.isdisjoint(id(parameter) for parameter in module.parameters()):
        raise ValueError(
            f"optimizer holds none of the {what}'s parameters; make it from this {what}"
        )
