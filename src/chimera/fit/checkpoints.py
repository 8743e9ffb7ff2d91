"""The checkpoints of a run: when one is due, how it is written, which stay, which is read.

Writing overlaps the training: where the run stands is copied, then a thread writes it down; one at
a time. After each, the last ``keep`` and the best stay.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from chimera.fit.checkpoint import read, write
from chimera.fit.code import code_of
from chimera.fit.joint import write_together
from chimera.fit.run_directory import RunDirectory
from chimera.fit.standing import Standing
from chimera.fit.training import Training
from chimera.fit.writer import Writer
from chimera.paths.notice import ChimeraWarning
from chimera.scale.ranks import Ranks
from chimera.stack.carry import Uncarriable
from chimera.store.errors import CheckpointError

_SECONDS = 10.0


@dataclass(frozen=True)
class Schedule:
    """How often a run is written down.

    Attributes:
        every: epochs between two checkpoints; None for the end of an epoch when 10 s have passed.
        keep: how many of the newest stay, beside the best.
    """

    every: int | None
    keep: int

    def __post_init__(self) -> None:
        for name, value in (("checkpoint_every", self.every), ("keep", self.keep)):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


class Checkpoints:
    """The checkpoints of one run, written as it goes.

    Args:
        directory: the run's.
        training: the run.
        schedule: how often.
        take: gives where the run stands.
        ranks: all ranks, where there are several; each writes the members that it holds.
        look: called while one waits for the others; raises to end that.
    """

    def __init__(
        self,
        directory: RunDirectory,
        training: Training,
        schedule: Schedule,
        take: Callable[[], Standing],
        ranks: Ranks | None = None,
        look: Callable[[], None] | None = None,
    ) -> None:
        self._folders, self._training, self._schedule = directory.checkpoints, training, schedule
        self._take, self._ranks, self._look = take, ranks, look
        self._count = 0
        training.together.ask = self._due
        self._writer = Writer()
        self._last = time.monotonic()
        self._possible = True
        self._loss = self._held()

    @property
    def standing(self) -> str:
        """Which checkpoint stands when the disk refuses the next, in words."""
        steps = self._folders.complete()
        return f"the checkpoint of step {steps[-1]} stands" if steps else "there is no checkpoint"

    def check(self) -> None:
        """Raise what the writing of a checkpoint raised."""
        self._writer.check()

    def epoch_done(self, last: bool) -> None:
        """Write a checkpoint if one is due; after the ``last`` epoch it is."""
        every = self._schedule.every
        due = (
            self._training.together.wanted if every is None else self._training.epochs % every == 0
        )
        if due or last:
            self.write()

    def _due(self) -> bool:
        return time.monotonic() - self._last >= _SECONDS and not self._writer.busy

    def write(self) -> None:
        """Write a checkpoint of where the run stands, beside what follows."""
        if not self._possible:
            return
        self._writer.wait()
        try:
            if self._held() != self._loss:
                raise Uncarriable(
                    "loss: what it holds changed in training, and a checkpoint holds what members "
                    "hold; let the member compute it"
                )
            standing = self._take()
        except Uncarriable as error:
            self._possible = False
            warnings.warn(
                f"this run cannot be resumed, no checkpoints are written: {error}",
                ChimeraWarning,
                stacklevel=4,
            )
            return
        self._last = time.monotonic()
        self._count += 1
        whole = self._training.whole_figures
        self._writer.start(partial(self._write, standing, whole, self._count))

    def _held(self) -> str | None:
        """A hash of what the loss holds, where it is a module."""
        loss = self._training.settings.loss
        return code_of(loss) if isinstance(loss, nn.Module) else None

    def stop(self) -> int | None:
        """Write where the run stands and wait for it; the step, or None where it is impossible."""
        self.write()
        self.wait()
        return self._training.optimizer.steps if self._possible else None

    def wait(self) -> None:
        """Wait until everything is written; raises what that raised."""
        self._writer.wait()

    def close(self, error: BaseException | None) -> None:
        """Wait for the thread; what it raised becomes a note of the ``error`` that ends the run."""
        try:
            self._writer.wait()
        except Exception as lost:
            if error is None:
                raise
            error.add_note(f"and a checkpoint could not be written: {lost}")

    def _write(self, standing: Standing, whole: Tensor, number: int) -> None:
        folders = self._folders
        if self._ranks is not None:
            assert self._look is not None
            write_together(self._ranks, number, folders, standing, self._look)
            if self._ranks.rank:
                return
        elif standing.step not in folders.complete():
            folders.write(standing.step, partial(_fill, standing), standing.bytes)
        folders.prune(self._kept(folders.complete(), standing.epoch, whole))

    def _kept(self, steps: list[int], epoch: int, whole: Tensor) -> list[int]:
        """The newest, and the one after whose epoch a member was best by validation."""
        kept = steps[-self._schedule.keep :]
        per_epoch = self._training.steps_per_epoch
        ends = {step: step // per_epoch for step in steps if step and step % per_epoch == 0}
        ends = {step: end for step, end in ends.items() if end <= epoch}
        if not ends:
            return kept
        higher = self._training.settings.metric.higher_is_better
        figures = whole[:, :, 1 if higher is None else 2]
        sign = -1.0 if higher else 1.0
        costs = torch.nan_to_num(sign * figures, nan=torch.inf).amin(0).tolist()
        return [*kept, min(ends, key=lambda step: (costs[ends[step] - 1], step))]


def _fill(standing: Standing, folder: Path) -> None:
    write(folder, standing)


def newest(
    directory: RunDirectory, training: Training, ranks: Ranks | None = None
) -> Standing | None:
    """Where the run of a directory stood at its newest checkpoint that can be trusted.

    Damaged ones are passed over, said in a `ChimeraWarning`, and renamed to ``<step>.damaged``.
    None where the run never wrote one. Of several ranks, rank 0 looks for it, and the others read
    their members from the same.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    if ranks is None:
        return _newest(directory, training)
    if ranks.rank == 0:
        found = _newest(directory, training)
        ranks.tell("newest", None if found is None else found.step)
        ranks.tell("newest/known", True)
        return found
    ranks.wait_until(
        lambda: ranks.heard("newest/known") is not None, lambda: [0], "the newest checkpoint"
    )
    step = ranks.heard("newest")
    if step is None:
        return None
    stack = training.stack
    groups = [members for _, members in stack.parts()]
    folders = directory.checkpoints
    return read(folders.path(step), groups, stack.members, partial(folders.check_file, step))


def _newest(directory: RunDirectory, training: Training) -> Standing | None:
    folders, stack = directory.checkpoints, training.stack
    groups = [members for _, members in stack.parts()]
    damaged: list[tuple[int, CheckpointError]] = []
    found: Standing | None = None
    for step in reversed(folders.complete()):
        try:
            found = read(folders.check(step), groups, stack.members)
            if found.step != step:
                raise CheckpointError(f"{folders.path(step)}: is of step {found.step}")
            break
        except CheckpointError as error:
            found = None
            damaged.append((step, error))
    if found is None and damaged:
        first = damaged[0][1]
        first.add_note(
            f"none of the {len(damaged)} checkpoints of this run can be read; put a copy of them "
            f"into {folders.root}, or start the run again with another out="
        )
        raise first
    for step, wrong in damaged:
        assert found is not None
        aside = folders.put_aside(step)
        warnings.warn(
            f"{wrong}; going on from the checkpoint before it, of step {found.step} "
            f"(the damaged one is now {aside.name})",
            ChimeraWarning,
            stacklevel=4,
        )
    return found
