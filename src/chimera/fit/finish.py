"""The end of a run: what is left of it trained, the last figures, the result of all members."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chimera.fit.result import Result, Row, ranking
from chimera.fit.settings import Settings
from chimera.fit.training import Training
from chimera.scale.ranks import Ranks
from chimera.stack import Stack
from chimera.stack.assemble import assemble
from chimera.stack.carry import Carried, GroupState, Uncarriable

Progress = Callable[[Row], None]


@dataclass
class Finish:
    """Trains what is left of a run and gives its result.

    Attributes:
        table: the members' rows before any figure.
        settings: of all members.
        whole: the stack of all members; the one that is trained where there is one process.
    """

    table: list[Row]
    settings: Settings
    whole: Stack

    def __call__(self, training: Training, started: float, progress: Progress | None) -> Result:
        """The result.

        Args:
            training: of the members that are here.
            started: when the run was, as ``time.perf_counter`` says.
            progress: called with each epoch's record.
        """
        settings = training.settings
        try:
            while training.epochs < settings.epochs:
                record = training.epoch()
                if progress is not None:
                    progress(record)
            table = training.final(self.table)
            positions = ranking(table, settings.metric.name, settings.metric.higher_is_better)
            ensemble = training.ensemble(positions)
        finally:
            training.restore_modes()
        return self._result(training, table, ensemble, time.perf_counter() - started)

    def _result(
        self, training: Training, table: list[Row], ensemble: float | None, seconds: float
    ) -> Result:
        return Result(
            stack=self.whole,
            table=table,
            epochs=training.records,
            ensemble=ensemble,
            seconds=seconds,
            train_seconds=training.seconds,
            settings=self.settings,
        )


@dataclass
class FinishTogether(Finish):
    """The same over ranks: at the end each of them has all members, and the same result.

    Attributes:
        ranks: all of them.
        carried: of ``whole``, as it was at the start.
    """

    ranks: Ranks
    carried: Carried

    def __call__(self, training: Training, started: float, progress: Progress | None) -> Result:
        def done(record: Row) -> None:
            if record["epoch"] == 1:
                self._check(training)
            if progress is not None:
                progress(record)

        return super().__call__(training, started, done)

    def _check(self, training: Training) -> None:
        """Raise where the members hold what cannot be sent to the other ranks."""
        try:
            training.carried.take(parameters=False)
        except Uncarriable as error:
            error.add_note("at the end of a run over ranks the members are sent to all of them")
            raise

    def _result(
        self, training: Training, table: list[Row], ensemble: float | None, seconds: float
    ) -> Result:
        result = super()._result(training, table, ensemble, seconds)
        if self.ranks.rank == 0:
            self.ranks.tell("trained", True)
        return self.gathered(training, result)

    def gathered(self, training: Training | None, result: Result | None) -> Result:
        """The result with all members, on every rank; None for what a rank without members has."""
        mine: dict[str, Any] = {"groups": [], "said": ""}
        if training is not None and result is not None:
            mine["groups"] = [vars(state) for state in training.carried.take()]
            mine["calls"] = (training.stack.calls, training.stack._evaluations)
            said = {
                "table": result.table,
                "epochs": result.epochs,
                "ensemble": result.ensemble,
                "seconds": result.seconds,
                "train_seconds": result.train_seconds,
            }
            mine["said"] = json.dumps(said) if self.ranks.rank == 0 else ""
        parts = self.ranks.gather_from_all(mine, "the members at the end")
        self._put([GroupState(**group) for part in parts for group in part["groups"]])
        self.whole.calls, self.whole._evaluations = parts[0]["calls"]
        return Result(stack=self.whole, settings=self.settings, **json.loads(parts[0]["said"]))

    def _put(self, states: Sequence[GroupState]) -> None:
        ids = [members for _, members in self.whole.parts()]
        self.carried.put([assemble(states, members) for members in ids])
