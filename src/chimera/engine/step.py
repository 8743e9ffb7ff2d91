"""One training step of all members of a Stack: forward, loss, backward, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from chimera.build.inputs import as_inputs
from chimera.draws.mode import Key, overridden
from chimera.engine.choice import as_engine, rule_of
from chimera.engine.eager import Eager
from chimera.engine.fast import Fast
from chimera.optim.clip import Clip
from chimera.optim.optimizer import Optimizer
from chimera.stack.each import arguments
from chimera.stack.explain import Explanation
from chimera.stack.rules import stacked_loss
from chimera.stack.stack import Stack

Loss = Callable[..., Tensor]


class TrainStep:
    """A training step; made by ``train_step``."""

    def __init__(
        self,
        stack: Stack,
        loss: Loss,
        optimizer: Optimizer,
        before_update: Callable[[Tensor], None] | None = None,
        clip: Any = None,
        engine: str = "auto",
        steps: int | None = None,
    ) -> None:
        self.stack, self.loss, self.optimizer = stack, loss, optimizer
        self.engine = engine
        self._steps = steps
        self._stacked_loss = stacked_loss(loss)
        limit = None if clip is None else Clip(stack, clip)
        self._eager = Eager(stack, self._loss_of, optimizer, before_update, limit)
        rule = rule_of(engine)
        self._fast = None if rule is None else Fast(self._eager, rule)

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
            The loss of every member before the step ``[members]``, detached.

        Raises:
            ValueError: a member's loss is no single number, or depends on no parameter.
            TypeError: the loss gives no tensor.
        """
        stack, given = self.stack, as_inputs(inputs)
        known = arguments((given.args, given.kwargs, tuple(targets)), {}, len(stack))
        key = overridden(Key(stack.seed, self.optimizer.steps))

        if self._fast is None:
            return self._eager.take(known, key)
        return self._fast.take(known, key, expected or self._steps)

    def _loss_of(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs, named, targets = args
        return self._stacked_loss(module(*inputs, **named), *targets)

    def __explain__(self) -> Explanation:
        explained = self.stack.__explain__()
        notes = ["engine eager: as asked"] if self._fast is None else self._fast.notes()
        return Explanation(explained.rows, (*explained.notes, *notes))


def train_step(
    stack: Stack,
    loss: Loss,
    optimizer: Optimizer,
    *,
    before_update: Callable[[Tensor], None] | None = None,
    clip: float | Sequence[float] | Tensor | None = None,
    engine: str = "auto",
    steps: int | None = None,
) -> TrainStep:
    """A callable that trains every member of a Stack by one step.

    Args:
        stack: the members.
        loss: ``loss(output, *targets)`` of ONE member, one number.
        optimizer: a ``ch.optim`` optimizer over the stack's parameters.
        before_update: called with the losses ``[members]`` once every parameter has its gradient,
            before the optimizer moves them.
        clip: the largest L2 norm that all gradients of a member together may have, a number or
            one per member; larger ones are scaled down, as ``torch.nn.utils.clip_grad_norm_``
            does for a module alone. After ``before_update``; None clips nothing.
        engine: ``"eager"``; ``"compiled"``: the whole step of a kind that repeats is recorded as
            one graph, compiled, and used once it agrees with eager; ``"auto"``: the one of these
            that is faster over the whole run, by a rule. A step that needs Python of its members
            stays eager, with a ``ch.ChimeraWarning``; ``explain`` says why. The draws are the
            same. A recorded step leaves no gradients unless ``before_update`` is given.
        steps: how many steps the run has, for ``"auto"``; unless given, it is compiled when it
            has been called as often as would have paid for it.

    Returns:
        ``step(inputs, *targets)``, which gives the members' losses ``[members]``.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the optimizer holds none of the stack's parameters; ``clip`` is below 0, or
            not one per member; ``engine`` is unknown.
    """
    if not isinstance(stack, Stack):
        raise TypeError(
            f"stack must be a ch.Stack, got {type(stack).__name__}; "
            "ch.Stack([module]) makes one of a single module"
        )
    if isinstance(loss, type) or not callable(loss):
        mend = "; give an instance of the class" if isinstance(loss, type) else ""
        raise TypeError(f"loss must be callable as loss(output, *targets), got {loss!r:.60}{mend}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "optimizer must be a ch.optim optimizer, such as ch.optim.AdamW(stack, lr=1e-3), "
            f"got {type(optimizer).__name__}"
        )
    mine = {id(parameter) for parameter in stack.parameters()}
    if mine.isdisjoint(id(parameter) for parameter in optimizer.parameters()):
        raise ValueError("optimizer holds none of the stack's parameters; make it from this stack")
    return TrainStep(stack, loss, optimizer, before_update, clip, as_engine(engine), steps)
