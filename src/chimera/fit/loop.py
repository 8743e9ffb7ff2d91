"""``ch.fit``: many members trained at once, each with its own order of the data and draws."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws.counter import member_keys
from chimera.engine import train_step
from chimera.fit.data import Data, Part
from chimera.fit.evaluate import Figures, ensemble_figure, evaluate
from chimera.fit.losses import Loss
from chimera.fit.metrics import MetricFunction
from chimera.fit.optimizers import OptimizerClass, own_settings
from chimera.fit.order import batches, order
from chimera.fit.outputs import check_output
from chimera.fit.prepare import Members, float_dtype, prepare
from chimera.fit.result import Result, Row, ranking
from chimera.fit.run_directory import RunDirectory, config_of, environment_of
from chimera.fit.settings import Settings, checked
from chimera.fit.space import LogUniform, per_member
from chimera.stack import Stack, each

Progress = Callable[[Row], None]


def fit(
    modules: Members,
    data: Data,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerClass | None = None,
    lr: float | Sequence[float] | Tensor | LogUniform = 1e-3,
    epochs: int = 30,
    batch_size: int = 32,
    metric: MetricFunction | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    config: Mapping[str, Any] | None = None,
) -> Result:
    """Trains many modules at once.

    A member's run depends on its module, on ``seed`` and on its place in the list: not on how
    many members there are, nor on the device.

    Args:
        modules: a list of modules, which stay as they are (copies are trained; lazy layers are
            built from the data's shape), or a Stack, which is trained in place.
        data: from ``ch.data`` or ``ch.digits``; floats are cast to the members' dtype.
        loss: a function of one member's output and target, [batch, ...] each, that gives the mean
            over the batch; cross-entropy for classification and mean squared error for
            regression unless given.
        optimizer: a class of ``ch.optim``, AdamW unless given, or a ``functools.partial`` of it.
        lr: the learning rate: one number, one a member, or a range to draw them from.
        epochs: how many times each member sees every training sample, in its own order each time.
        batch_size: samples a member sees at a step; an epoch's last batch may be smaller.
        metric: a function of one member's output and target of a whole part, evaluated in one
            call; accuracy for classification and R2 for regression unless given.
        out: a new or empty directory, in which the run is written down.
        seed: decides orders, drawn learning rates, draws, and the weights of lazy layers.
        device: where to train; where the modules are unless given.
        progress: called after each epoch with its record, as ``Result.epochs`` has it.
        config: more of what JSON can say, to stand in ``config.json``.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of range, the network's output does not fit the data, or
            ``out`` is not empty, not writable or a file.
    """
    started = time.perf_counter()
    settings = checked(data, loss, metric, optimizer, epochs, batch_size, seed)
    stack = prepare(modules, data, settings.seed, device)
    data = data.to(stack.device, float_dtype(stack))
    if loss is None or metric is None:
        for position in first_of_groups(stack):
            check_output(stack[position], data, f"member {stack.members[position]}")
    rates = per_member("lr", lr, settings.seed, stack.members)
    training = Training(stack, data, settings, lr if isinstance(lr, (int, float)) else rates)
    table = _first_columns(training, rates)
    directory = None if out is None else RunDirectory(out)
    try:
        if directory is not None:
            directory.start(
                config_of(settings, len(stack), training.optimizer, config or {}),
                environment_of(stack.device),
            )
        records = []
        for _ in range(settings.epochs):
            records.append(training.epoch())
            if directory is not None:
                directory.add_epoch(records[-1])
            if progress is not None:
                progress(records[-1])
        table = training.final(table, records[-1])
        positions = ranking(table, settings.metric.name, settings.metric.higher_is_better)
        result = Result(
            stack=stack,
            table=table,
            epochs=records,
            ensemble=training.ensemble(positions),
            seconds=time.perf_counter() - started,
            train_seconds=training.seconds,
            settings=settings,
        )
        if directory is not None:
            directory.finish(result)
    finally:
        training.restore_modes()
        if directory is not None:
            directory.close()
    return result


class Training:
    """A run on its way: the stack, its optimizer, and where in the data it stands."""

    def __init__(self, stack: Stack, data: Data, settings: Settings, rates: float | Tensor) -> None:
        self.stack, self.data, self.settings = stack, data, settings
        self.optimizer = settings.optimizer(stack, lr=rates)
        self.step = train_step(stack, settings.loss, self.optimizer)
        self.keys = member_keys(settings.seed, stack.members, stack.device)
        self.epochs = 0
        self.seconds = 0.0
        self.modes = [(module, module.training) for module in _with_modes(stack)]

    def epoch(self) -> Row:
        """Trains one epoch and gives its record: each figure a list over members."""
        self.train_mode()
        start = time.perf_counter()
        train = self.train()
        synchronize(self.stack.device)
        self.seconds += time.perf_counter() - start
        self.epochs += 1
        validation = self.figures(self.data.validation)
        names = ("train_loss", "validation_loss", f"validation_{self.settings.metric.name}")
        figures = torch.stack([train, validation.loss, validation.metric]).tolist()
        return {"epoch": self.epochs, **dict(zip(names, figures, strict=True))}

    def train(self) -> Tensor:
        """One epoch's steps; the mean over samples of the batches' losses, float64 [members]."""
        part = self.data.train
        rows = order(self.keys, self.epochs, len(part))
        total = torch.zeros(len(self.stack), dtype=torch.float64, device=part.x.device)
        for batch in batches(part, rows, self.settings.batch_size):
            losses = self.step(each(batch.x), each(batch.y))
            total += losses.double() * batch.y.shape[1]
        return total / len(part)

    def figures(self, part: Part) -> Figures:
        """Every member's loss and metric on a part, in evaluation mode."""
        self.stack.eval()
        settings = self.settings
        return evaluate(
            self.stack, part, settings.loss, settings.metric, settings.chunk, self.optimizer.steps
        )

    def final(self, table: list[Row], last: Row) -> list[Row]:
        """The table with the final figures on all parts; ``last`` is the last epoch's record."""
        metric = self.settings.metric.name
        train, test = self.figures(self.data.train), self.figures(self.data.test)
        columns = {
            "train_loss": train.loss.tolist(),
            f"train_{metric}": train.metric.tolist(),
            "validation_loss": last["validation_loss"],
            f"validation_{metric}": last[f"validation_{metric}"],
            "test_loss": test.loss.tolist(),
            f"test_{metric}": test.metric.tolist(),
        }
        return [
            {**row, **{name: values[position] for name, values in columns.items()}}
            for position, row in enumerate(table)
        ]

    def ensemble(self, positions: list[int]) -> float | None:
        """The test metric of the members at ``positions`` together."""
        self.stack.eval()
        settings = self.settings
        return ensemble_figure(
            self.stack,
            self.data,
            settings.metric,
            positions,
            settings.chunk,
            self.optimizer.steps,
        )

    def train_mode(self) -> None:
        """Training mode: the one each module came in, or all of it if it came in evaluation."""
        if any(training for _, training in self.modes):
            self.restore_modes()
        else:
            self.stack.train()

    def restore_modes(self) -> None:
        """Every module's mode as it was."""
        for module, training in self.modes:
            module.training = training


def _first_columns(training: Training, rates: Tensor) -> list[Row]:
    """The table before any figure: member, group and hyper-parameters."""
    columns = {
        "member": training.stack.members,
        "group": groups_of(training.stack),
        "lr": rates.tolist(),
        **own_settings(training.optimizer),
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _with_modes(stack: Stack) -> list[nn.Module]:
    """Every module whose mode counts: the stack, and what its groups' members have in common."""
    shared = [module for group in stack._groups for _, module in group.reading.modules]
    return [*stack.modules(), *shared]


def groups_of(stack: Stack) -> list[int]:
    """Each member's group."""
    groups = [0] * len(stack)
    for parameter in stack.layout():
        for position in parameter.members.tolist():
            groups[position] = int(parameter.name.split(".")[1])
    return groups


def first_of_groups(stack: Stack) -> list[int]:
    """The position of the first member of each group."""
    groups = groups_of(stack)
    return [groups.index(group) for group in dict.fromkeys(groups)]


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what was asked of it, so that a clock tells the truth."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
