"""A run that is written down, and that can be stopped and go on."""

import time
from collections.abc import Callable

from chimera.fit.checkpoints import Checkpoints, Schedule, newest
from chimera.fit.described import environment_of
from chimera.fit.finish import Finish
from chimera.fit.result import Result, Row
from chimera.fit.run_directory import RunDirectory
from chimera.fit.same_run import check_same
from chimera.fit.signals import Asked, stopped
from chimera.fit.standing import Standing
from chimera.fit.stopping import AgreedStopping, Stopping
from chimera.fit.training import Training
from chimera.scale.meeting import PeerError
from chimera.scale.ranks import Ranks
from chimera.store.errors import CheckpointError

Progress = Callable[[Row], None]


class Written:
    """A run with a directory.

    Args:
        directory: of the run; as this rank has it.
        stopping: what stops the run.
        started: when it was, as ``time.perf_counter`` says.
        ranks: all ranks, where there are several.
    """

    def __init__(
        self, directory: RunDirectory, stopping: Stopping, started: float, ranks: Ranks | None
    ) -> None:
        self._directory, self._stopping, self.started = directory, stopping, started
        self._ranks = ranks
        self._checkpoints: Checkpoints | None = None
        self._training: Training | None = None

    def poll(self) -> None:
        """Raise what stops the run: a signal, a checkpoint that could not be written, a rank."""
        if self._checkpoints is not None:
            self._checkpoints.check()
        training = self._training
        place = None if training is None else (training.optimizer.steps, training.epochs)
        self._stopping.look(place)

    def fit(
        self,
        training: Training,
        schedule: Schedule,
        told: Row,
        finish: Finish,
        progress: Progress | None,
    ) -> Result:
        """Start the run or go on with it, to its end."""
        directory = self._directory
        told = self._begin(training, told)

        def take() -> Standing:
            return training.standing(told, time.perf_counter() - self.started)

        def epoch_done(record: Row) -> None:
            directory.add_epoch(record)
            checkpoints.epoch_done(training.epochs == training.settings.epochs)
            if progress is not None:
                progress(record)

        look = self._stopping.wait if isinstance(self._stopping, AgreedStopping) else None
        checkpoints = Checkpoints(directory, training, schedule, take, self._ranks, look)
        if directory.finished:
            return finish(training, self.started, progress)
        self._training, self._checkpoints = training, checkpoints
        failure: BaseException | None = None
        try:
            directory.open_metrics(training.records)
            result = finish(training, self.started, epoch_done)
            checkpoints.wait()
            directory.finish(result)
            return result
        except Asked as asked:
            failure = self._stop(checkpoints, training, asked.number)
            raise failure from None
        except PeerError as error:
            failure = error
            number = self._stopping.number
            if number is None:
                raise
            failure = self._stopped(training, number, f"; no new checkpoint: {error}")
            raise failure from error
        except BaseException as error:
            failure = error
            if isinstance(error, OSError):
                error.add_note(checkpoints.standing)
            raise
        finally:
            checkpoints.close(failure)

    def _begin(self, training: Training, told: Row) -> Row:
        """Start the run, or bring ``training`` to where it stood; the config with the run's id."""
        directory, size = self._directory, 1 if self._ranks is None else self._ranks.size
        environment = environment_of(training.stack.device, size)
        if directory.config is None:
            return directory.start(told, environment)
        check_same(directory.config, told)
        standing = newest(directory, training, self._ranks)
        if not directory.finished:
            if self._ranks is None or self._ranks.rank == 0:
                directory.checkpoints.clean()
            if standing is None:  # it starts now, with what it was given now
                return directory.start(told, environment)
        directory.go_on(environment, told)
        if standing is not None:
            check_same(standing.config, told)
            try:
                training.restore(standing)
            except ValueError as error:
                raise CheckpointError(
                    f"{directory.checkpoints.path(standing.step)}: does not fit the members: "
                    f"{error}"
                ) from error
            self.started -= standing.seconds
        return directory.config

    def _stop(self, checkpoints: Checkpoints, training: Training, number: int) -> BaseException:
        try:
            step = checkpoints.stop()
        except PeerError as error:
            return self._stopped(training, number, f"; no new checkpoint: {error}")
        if self._ranks is not None and self._ranks.rank == 0:
            self._ranks.tell("stopped", training.optimizer.steps)
        if step is None:
            return self._stopped(training, number, "", "it cannot go on from there")
        return self._stopped(training, number, "")

    def _stopped(
        self, training: Training, number: int, why: str, how: str | None = None
    ) -> BaseException:
        epochs = training.settings.epochs
        epoch = min(training.epochs + 1, epochs)
        message = f"stopped at step {training.optimizer.steps}, in epoch {epoch} of {epochs}{why}"
        return stopped(number, f"{message}; {how or self.how_to_go_on}")

    @property
    def how_to_go_on(self) -> str:
        """What the user types to go on with the run."""
        path = self._directory.path
        if "command" in (self._directory.config or {}):
            return f"chimera fit --resume {path} goes on"
        return f"ch.fit(..., out={str(path)!r}, resume=True) goes on"
