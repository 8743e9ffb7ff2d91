"""``ch.fit``: many members trained at once, each with its own order of the data and draws."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from chimera.fit.checkpoints import Checkpoints, Schedule, newest
from chimera.fit.columns import Columns, own_columns
from chimera.fit.data import Data
from chimera.fit.losses import Loss
from chimera.fit.metrics import MetricFunction
from chimera.fit.optimizers import OptimizerClass, own_settings
from chimera.fit.outputs import check_output
from chimera.fit.prepare import Members, float_dtype, prepare
from chimera.fit.result import Result, Row, ranking
from chimera.fit.run_directory import Resume, RunDirectory, config_of, environment_of
from chimera.fit.same_run import check_same
from chimera.fit.settings import check_progress, checked
from chimera.fit.signals import Asked, Signals, stopped
from chimera.fit.space import LogUniform, per_member
from chimera.fit.standing import Standing
from chimera.fit.training import Training
from chimera.stack import Stack
from chimera.store.errors import CheckpointError

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
    out: str | os.PathLike[str] | RunDirectory | None = None,
    resume: Resume = False,
    checkpoint_every: int | None = None,
    keep: int = 2,
    force_unlock: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    config: Mapping[str, Any] | None = None,
    clip: float | Sequence[float] | Tensor | None = None,
    hyperparameters: Mapping[str, Sequence[Any]] | None = None,
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
        out: a new or empty directory, in which the run is written down. SIGTERM and the first
            Ctrl-C then finish the step and write a checkpoint before they end the run.
        resume: True goes on with the run that was started in ``out``, from its newest checkpoint
            to the same bits as if it had never stopped; ``"auto"`` does so where there is one,
            and else starts it. Everything else must be what the run was started with.
        checkpoint_every: epochs between two checkpoints; unless given, one is written at the end
            of an epoch when 10 s have passed since the last. There is always one at the end.
        keep: how many of the newest checkpoints stay, beside the best.
        force_unlock: take ``out`` over although a process of another host has locked it.
        seed: decides orders, drawn learning rates, draws, and the weights of lazy layers.
        device: where to train; where the modules are unless given.
        progress: called after each epoch with its record, as ``Result.epochs`` has it.
        config: more of what JSON can say, to stand in ``config.json``.
        clip: the largest L2 norm that all gradients of a member together may have, a number or
            one a member; larger ones are scaled down.
        hyperparameters: of the modules, by name, one value a member: more columns of the table.

    A member whose loss or gradient turns NaN or infinite stands still from then on; its figures
    are NaN, and its row of the table says when and where under ``died``.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of range, the network's output does not fit the data,
            ``out`` is not empty, not writable or a file, or with ``resume`` something is not what
            the run was started with.
        LockedError: another process writes to ``out``.
        CheckpointError: no checkpoint of the run can be trusted.
        OSError: the disk refuses; the last checkpoint stands.
    """
    started = time.perf_counter()
    check_progress(progress)
    schedule = Schedule(checkpoint_every, keep)
    with _directory(out, resume, force_unlock) as directory:
        settings = checked(data, loss, metric, optimizer, epochs, batch_size, seed, clip)
        stack = prepare(modules, data, settings.seed, device)
        data = data.to(stack.device, float_dtype(stack))
        if loss is None or metric is None:
            for position in first_of_groups(stack):
                check_output(stack[position], data, f"member {stack.members[position]}")
        rates = per_member("lr", lr, settings.seed, stack.members)
        more = own_columns(hyperparameters, len(stack))
        one_or_own = lr if isinstance(lr, (int, float)) else rates
        if directory is None:
            training = Training(stack, data, settings, one_or_own)
            return _finished(training, rates, more, started, progress)
        with Signals() as signals:
            run = _Written(directory, signals, more, started)
            training = Training(stack, data, settings, one_or_own, run.poll)
            told = config_of(settings, stack, training.optimizer, config or {})
            told["clip"] = _plain(clip)
            told["writing"] = {"checkpoint_every": checkpoint_every, "keep": keep}
            return run.fit(training, schedule, told, rates, progress)


def _directory(
    out: str | os.PathLike[str] | RunDirectory | None, resume: Resume, force_unlock: bool
) -> Any:
    """The run's directory, locked, to be given back at the end; None where there is none."""
    if resume not in (True, False, "auto"):
        raise ValueError(f'resume must be True, False or "auto", got {resume!r}')
    if out is None:
        if resume:
            raise ValueError("resume needs out=, the directory of the run that is to go on")
        return nullcontext()
    return out if isinstance(out, RunDirectory) else RunDirectory(out, resume, force_unlock)


class _Written:
    """A run that is written down, and that can be stopped and go on."""

    def __init__(
        self, directory: RunDirectory, signals: Signals, more: Columns, started: float
    ) -> None:
        self._directory, self._signals, self._started = directory, signals, started
        self._more = more
        self._checkpoints: Checkpoints | None = None

    def poll(self) -> None:
        """Raise what stops the run: a signal, or a checkpoint that could not be written."""
        self._signals.check()
        if self._checkpoints is not None:
            self._checkpoints.check()

    def fit(
        self,
        training: Training,
        schedule: Schedule,
        told: Row,
        rates: Tensor,
        progress: Progress | None,
    ) -> Result:
        """Start the run or go on with it, to its end."""
        directory = self._directory
        told = self._begin(training, told)

        def take() -> Standing:
            return training.standing(told, time.perf_counter() - self._started)

        def epoch_done(record: Row) -> None:
            directory.add_epoch(record)
            checkpoints.epoch_done(training.epochs == training.settings.epochs)
            if progress is not None:
                progress(record)

        checkpoints = Checkpoints(directory, training, schedule, take)
        if directory.finished:
            return _finished(training, rates, self._more, self._started, progress)
        self._checkpoints = checkpoints
        failure: BaseException | None = None
        try:
            directory.open_metrics(training.records)
            result = _finished(training, rates, self._more, self._started, epoch_done)
            checkpoints.wait()
            directory.finish(result)
            return result
        except Asked as asked:
            failure = self._stop(checkpoints, training, asked)
            raise failure from None
        except BaseException as error:
            failure = error
            if isinstance(error, OSError):
                error.add_note(checkpoints.standing)
            raise
        finally:
            checkpoints.close(failure)

    def _begin(self, training: Training, told: Row) -> Row:
        """Start the run, or bring ``training`` to where it stood; the config with the run's id."""
        directory, environment = self._directory, environment_of(training.stack.device)
        if directory.config is None:
            return directory.start(told, environment)
        check_same(directory.config, told)
        directory.go_on(environment)
        standing = newest(directory, training)
        if standing is not None:
            check_same(standing.config, told)
            try:
                training.restore(standing)
            except ValueError as error:
                raise CheckpointError(
                    f"{directory.checkpoints.path(standing.step)}: does not fit the members: "
                    f"{error}"
                ) from error
            self._started -= standing.seconds
        if not directory.finished:
            directory.checkpoints.clean()
        return directory.config

    def _stop(self, checkpoints: Checkpoints, training: Training, asked: Asked) -> BaseException:
        step = checkpoints.stop()
        path, epochs = self._directory.path, training.settings.epochs
        epoch = min(training.epochs + 1, epochs)
        message = f"stopped at step {training.optimizer.steps}, in epoch {epoch} of {epochs}"
        how = f"ch.fit(..., out={str(path)!r}, resume=True) goes on"
        if "command" in (self._directory.config or {}):
            how = f"chimera fit --resume {path} goes on"
        if step is None:
            how = "it cannot go on from there"
        return stopped(asked.number, f"{message}; {how}")


def _finished(
    training: Training,
    rates: Tensor,
    more: Columns,
    started: float,
    progress: Progress | None,
) -> Result:
    """The result of the run, what is left of it trained."""
    settings, stack = training.settings, training.stack
    table = _first_columns(training, rates, more)
    try:
        while training.epochs < settings.epochs:
            record = training.epoch()
            if progress is not None:
                progress(record)
        table = training.final(table)
        positions = ranking(table, settings.metric.name, settings.metric.higher_is_better)
        return Result(
            stack=stack,
            table=table,
            epochs=training.records,
            ensemble=training.ensemble(positions),
            seconds=time.perf_counter() - started,
            train_seconds=training.seconds,
            settings=settings,
        )
    finally:
        training.restore_modes()


def _first_columns(training: Training, rates: Tensor, more: Columns) -> list[Row]:
    """The table before any figure: member, group and hyper-parameters."""
    limits = _plain(training.settings.clip)
    columns: dict[str, Sequence[Any]] = {
        "member": training.stack.members,
        "group": groups_of(training.stack),
        "lr": rates.tolist(),
        **own_settings(training.optimizer),
        **({"clip": limits} if isinstance(limits, list) else {}),
    }
    if not columns.keys().isdisjoint(more):
        twice = sorted(columns.keys() & more.keys())
        raise ValueError(f"hyperparameters: the table has a column {twice[0]} of its own")
    columns |= more
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _plain(limits: float | Sequence[float] | Tensor | None) -> float | list[float] | None:
    """Limits as JSON can say them."""
    if isinstance(limits, (Sequence, Tensor)):
        return [float(limit) for limit in limits]
    return limits


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
