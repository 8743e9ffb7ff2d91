"""What a run was told, checked before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from chimera.draws.seeds import as_seed
from chimera.engine.choice import as_engine
from chimera.engine.chunking import check_memory
from chimera.fit.data import Data
from chimera.fit.losses import Loss, task_loss
from chimera.fit.metrics import Custom, Metric, MetricFunction, task_metric
from chimera.fit.optimizers import OptimizerClass, check_optimizer, for_members, for_share
from chimera.optim import AdamW

Limits = float | Sequence[float] | Tensor | None


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
        clip: the largest norm of a member's gradients, a number or one a member; None for none.
        engine: what takes the training steps.
        memory: the most bytes that a step may take; None for what the device has.
    """

    data: Data
    loss: Loss
    metric: Metric
    optimizer: OptimizerClass
    epochs: int
    batch_size: int
    seed: int
    clip: Limits = None
    engine: str = "auto"
    memory: int | None = None

    @property
    def chunk(self) -> int:
        """How many samples are evaluated at once.

        Without gradients that takes about the memory of a training step.
        """
        return max(4 * self.batch_size, 128)

    def of_members(self, positions: Sequence[int], members: int) -> "Settings":
        """The settings of some of the members alone."""
        clip = self.clip
        if isinstance(clip, (Sequence, Tensor)):
            clip = [float(clip[position]) for position in positions]
        return replace(self, optimizer=for_members(self.optimizer, positions, members), clip=clip)

    def of_share(self, positions: Sequence[int], members: int, names: Sequence[str]) -> "Settings":
        """The settings of a rank's share of ``members``, whose stacked parameters are ``names``."""
        optimizer = for_share(self.optimizer, positions, members, names)
        alone = replace(self, optimizer=AdamW).of_members(positions, members)
        return replace(alone, optimizer=optimizer)

    def clip_of(self, position: int) -> float | None:
        """The largest norm of the gradients of the member at a position; None for any."""
        limits = self.clip
        return float(limits[position]) if isinstance(limits, (Sequence, Tensor)) else limits


def checked(
    data: Data,
    loss: Loss | None,
    metric: MetricFunction | None,
    optimizer: OptimizerClass | None,
    epochs: int,
    batch_size: int,
    seed: int,
    clip: Limits = None,
    engine: str = "auto",
    memory: int | None = None,
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
    check_memory(memory)
    if optimizer is not None:
        check_optimizer(optimizer)
    return Settings(
        data=data,
        loss=task_loss(data.task) if loss is None else loss,
        metric=task_metric(data) if metric is None else Custom(metric),
        optimizer=AdamW if optimizer is None else optimizer,
        epochs=epochs,
        batch_size=batch_size,
        seed=as_seed(seed),
        clip=clip,
        engine=as_engine(engine),
        memory=memory,
    )


def check_progress(progress: Any) -> None:
    """Raise a TypeError where ``progress`` cannot be called with an epoch's record."""
    if progress is not None and (not callable(progress) or isinstance(progress, type)):
        raise TypeError(f"progress must be a function of an epoch's record, got {progress!r:.60}")


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
