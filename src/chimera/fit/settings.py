"""What a run was told, checked before anything starts."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from chimera import optim as ch_optim
from chimera.draws.seeds import as_seed
from chimera.fit.data import Data
from chimera.fit.losses import Loss, task_loss
from chimera.fit.metrics import Custom, Metric, MetricFunction, task_metric
from chimera.optim import AdamW
from chimera.optim.optimizer import Optimizer

OptimizerClass = Callable[..., Any]


@dataclass(frozen=True)
class Settings:
    """The settings of one run, complete: what was left out has its default.

    Attributes:
        data: the samples.
        loss: a function of the output and target of one member's batch.
        metric: the figure of merit.
        optimizer: a class of ``ch.optim``, or a ``functools.partial`` of one.
        epochs: how many times a member sees every training sample.
        batch_size: how many samples a member sees at a step.
        seed: decides orders, learning rates, initial weights of lazy layers, and draws.
    """

    data: Data
    loss: Loss
    metric: Metric
    optimizer: OptimizerClass
    epochs: int
    batch_size: int
    seed: int

    @property
    def chunk(self) -> int:
        """How many samples are evaluated at once.

        Without gradients that takes about the memory of a training step.
        """
        return max(4 * self.batch_size, 128)

    @property
    def optimizer_name(self) -> str:
        """The name that the optimizer has in ``ch.optim`` and in ``torch.optim``."""
        classes: tuple[type, ...] = unwrapped(self.optimizer).__mro__
        return next(c.__name__ for c in classes if c.__module__.startswith("chimera.optim"))

    def of_members(self, positions: Sequence[int], members: int) -> "Settings":
        """The settings of some of the members alone."""
        return replace(self, optimizer=narrowed(self.optimizer, positions, members))


def checked(
    data: Data,
    loss: Loss | None,
    metric: MetricFunction | None,
    optimizer: OptimizerClass | None,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Settings:
    """The settings, defaults filled in.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: ``epochs`` or ``batch_size`` is out of range.
    """
    given: Any = data
    if not isinstance(given, Data):
        raise TypeError(
            f"data must come from ch.data(x, y) or ch.digits(), got {type(given).__name__}"
        )
    for name, function in (("loss", loss), ("metric", metric)):
        if function is not None and (not callable(function) or isinstance(function, type)):
            hint = "; give an instance of the class" if isinstance(function, type) else ""
            raise TypeError(
                f"{name} must be a function of one member's output and target, "
                f"got {function!r}{hint}"
            )
    _check_count("epochs", epochs, 1)
    _check_count("batch_size", batch_size, 1)
    if batch_size > len(data.train):
        raise ValueError(
            f"batch_size must not exceed the {len(data.train)} training samples, got {batch_size}"
        )
    return Settings(
        data=data,
        loss=task_loss(data.task) if loss is None else loss,
        metric=task_metric(data) if metric is None else Custom(metric),
        optimizer=AdamW if optimizer is None else _optimizer(optimizer),
        epochs=epochs,
        batch_size=batch_size,
        seed=as_seed(seed),
    )


def unwrapped(optimizer: OptimizerClass) -> Any:
    """The class itself, without the arguments that a ``functools.partial`` adds."""
    while isinstance(optimizer, functools.partial):
        optimizer = optimizer.func
    return optimizer


def keywords_of(optimizer: OptimizerClass) -> dict[str, Any]:
    """The settings that a ``functools.partial`` adds."""
    if not isinstance(optimizer, functools.partial):
        return {}
    return keywords_of(optimizer.func) | optimizer.keywords


def narrowed(optimizer: OptimizerClass, positions: Sequence[int], members: int) -> OptimizerClass:
    """The optimizer for some of ``members`` members: a setting of one per member keeps theirs."""
    kind = unwrapped(optimizer)
    own = {
        name: tuple(_of_members(part, positions, members) for part in value)
        if name in kind.pairs
        else _of_members(value, positions, members)
        for name, value in keywords_of(optimizer).items()
    }
    return functools.partial(kind, **own)


def _of_members(value: Any, positions: Sequence[int], members: int) -> Any:
    if isinstance(value, (bool, int, float)):
        return value
    values = torch.as_tensor(value, dtype=torch.float64)
    return values[list(positions)] if values.shape == (members,) else values


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _optimizer(optimizer: OptimizerClass) -> OptimizerClass:
    kind = unwrapped(optimizer)
    if not isinstance(kind, type):
        raise TypeError(
            f"optimizer must be a class of ch.optim, such as ch.optim.AdamW, got {optimizer!r}"
        )
    if not issubclass(kind, Optimizer):
        hint = f"; write ch.optim.{kind.__name__}" if hasattr(ch_optim, kind.__name__) else ""
        raise TypeError(
            f"optimizer must be a class of ch.optim, whose settings may differ per member, "
            f"got {kind.__module__}.{kind.__qualname__}{hint}"
        )
    return optimizer
