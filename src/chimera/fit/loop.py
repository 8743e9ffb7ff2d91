"""``ch.fit``: many members trained at once, each with its own order of the data and draws."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from chimera.fit.checkpoints import Schedule
from chimera.fit.columns import own_columns
from chimera.fit.data import Data
from chimera.fit.described import as_config, config_of
from chimera.fit.finish import Finish, FinishTogether
from chimera.fit.losses import Loss
from chimera.fit.metrics import MetricFunction
from chimera.fit.opened import opened
from chimera.fit.optimizers import OptimizerClass
from chimera.fit.outputs import check_output
from chimera.fit.over_ranks import OverRanks, agree
from chimera.fit.prepare import Members, check_writable, float_dtype, prepare
from chimera.fit.result import Result, Row
from chimera.fit.run_directory import Resume, RunDirectory
from chimera.fit.settings import check_progress, checked
from chimera.fit.signals import Signals
from chimera.fit.space import LogUniform, per_member
from chimera.fit.stopping import Stopping
from chimera.fit.table import first_columns, first_of_groups
from chimera.fit.training import Training
from chimera.fit.written import Written
from chimera.optim.clip import Clip
from chimera.scale.joined import is_rank
from chimera.scale.launch import device_count
from chimera.scale.ranks import Ranks, current
from chimera.stack.carry import Carried

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
    devices: int | Literal["auto"] | None = None,
    engine: str = "auto",
    memory: int | None = None,
) -> Result:
    """Trains many modules at once.

    A member's run depends on its module, on ``seed`` and on its place in the list: not on how
    many members there are, nor on the device, nor on how many processes share the work.

    Where ``torch.distributed`` is initialized, every rank calls this alike, trains its share of
    the members, and gets the whole result; files and progress come from rank 0.

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
        config: more of what JSON can say, to stand in ``config.json`` under names of its own.
        clip: the largest L2 norm that all gradients of a member together may have, a number or
            one a member; larger ones are scaled down.
        hyperparameters: of the modules, by name, one value a member: more columns of the table.
        devices: how many there must be, a process each; ``"auto"`` for all of this machine.
        engine: what takes the training steps, as in ``ch.train_step``.
        memory: the most bytes that a step may take in a process; four fifths of the device's
            memory unless given. Where it would take more, members run in chunks, with equal
            results.

    A member whose loss or gradient turns NaN or infinite stands still from then on; its figures
    are NaN, and its row of the table says when and where under ``died``.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of range, the network's output does not fit the data,
            ``out`` is not empty, not writable or a file, or with ``resume`` something is not what
            the run was started with; there are not as many processes as ``devices``; ranks were
            not started alike.
        PeerError: another rank failed, is gone, or did not come in time.
        LockedError: another process writes to ``out``.
        CheckpointError: no checkpoint of the run can be trusted.
        OSError: the disk refuses; the last checkpoint stands.
    """
    started = time.perf_counter()
    check_progress(progress)
    told_too = as_config(config, commanded=isinstance(out, RunDirectory | None))
    schedule = Schedule(checkpoint_every, keep)
    ranks = _met(devices)
    with (
        nullcontext() if ranks is None else ranks.met(),
        opened(out, resume, force_unlock, ranks) as directory,
    ):
        given = (data, loss, metric, optimizer, epochs, batch_size, seed, clip, engine, memory)
        settings = checked(*given)
        whole = prepare(modules, data, settings.seed, device if ranks is None else None)
        if out is not None:
            check_writable(whole)
        placed = data.to(whole.device, float_dtype(whole))
        if loss is None or metric is None:
            for position in first_of_groups(whole):
                check_output(whole[position], placed, f"member {whole.members[position]}")
        rates = per_member("lr", lr, settings.seed, whole.members)
        one_or_own = lr if isinstance(lr, (int, float)) else rates
        all_optimizer = settings.optimizer(whole, lr=one_or_own)
        if clip is not None:
            Clip(whole, clip)  # looks at it
        more = own_columns(hyperparameters, len(whole))
        table = first_columns(whole, all_optimizer, rates, clip, more)
        finish = Finish(table, settings, whole)
        if ranks is None and directory is None:
            return finish(Training(whole, placed, settings, one_or_own), started, progress)
        writing = {"checkpoint_every": checkpoint_every, "keep": keep}
        told = config_of(settings, whole, all_optimizer, more, writing, told_too)
        if ranks is None:
            with Signals() as signals:
                run = Written(directory, Stopping(signals), started, None)
                training = Training(whole, placed, settings, one_or_own, run.poll)
                return run.fit(training, schedule, told, finish, progress)
        agree(ranks, told)
        part = OverRanks(ranks, whole, placed, settings, one_or_own, device)
        together = FinishTogether(table, settings, whole, ranks, Carried(whole))
        try:
            return part.run(directory, data, schedule, told, together, started, progress)
        except Exception as error:
            error.add_note(part.said)
            raise


def _met(devices: int | Literal["auto"] | None) -> Ranks | None:
    """The ranks that make this run together; None where this process is alone.

    Raises:
        TypeError: ``devices`` is no number of devices.
        ValueError: there are not as many ranks as devices; the command that starts them is named.
    """
    if devices is not None and devices != "auto":
        if isinstance(devices, bool) or not isinstance(devices, int):
            raise TypeError(f'devices must be a whole number or "auto", got {devices!r:.60}')
        if devices < 1:
            raise ValueError(f"devices must be at least 1, got {devices}")
    ranks = current()
    size = 1 if ranks is None else ranks.size
    wanted = devices
    if devices == "auto":
        wanted = device_count() if ranks is None else size
    if wanted is not None and wanted != size:
        here = "one process" if size == 1 else f"one of {size}"
        raise ValueError(
            f"devices={devices!r}: this Python is {here}, and each device needs a process of its "
            "own; put the call into a file and run "
            f"torchrun --nproc-per-node {wanted} FILE.py, in which "
            "torch.distributed.init_process_group() comes first (or chimera fit ... --devices "
            f"{devices})"
        )
    if ranks is None and is_rank() and size == 1:
        raise ValueError(
            "a launcher started this process as one of several: call "
            "torch.distributed.init_process_group() before ch.fit"
        )
    return ranks
