"""A run over ranks: what all of them make sure of at the start, and who trains what."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.fit.checkpoints import Schedule
from chimera.fit.data import Data
from chimera.fit.described import environment_of
from chimera.fit.finish import FinishTogether
from chimera.fit.result import Result, Row
from chimera.fit.run_directory import RunDirectory
from chimera.fit.same_run import differences
from chimera.fit.settings import Settings
from chimera.fit.share import share_of, shares_of
from chimera.fit.signals import Signals, stopped
from chimera.fit.stopping import AgreedStopping, Stopping, Watching
from chimera.fit.together import Together
from chimera.fit.training import Poll, Training
from chimera.fit.written import Progress, Written
from chimera.paths.notice import ChimeraWarning
from chimera.scale.ranks import Ranks
from chimera.stack import Stack

_SAME = ("python", "packages")
_OTHER = {
    "versions": "another version",
    "config": "another config",
    "weights": "members of other weights",
}


def agree(ranks: Ranks, told: Mapping[str, Any]) -> None:
    """Raise ValueError where a rank has other versions, settings or members than rank 0.

    Every rank raises the same, with the rank, the key and both values.
    """
    environment = environment_of(torch.device("cpu"), ranks.size)
    mine = {
        "config": told,
        "versions": {name: environment[name] for name in _SAME},
        "weights": {"sha256": told["weights_sha256"]},
    }
    first, *others = ranks.exchange(mine, "the comparison of their configs")
    for rank, other in enumerate(others, 1):
        for what, mend in (
            ("versions", "install the same ones everywhere"),
            ("config", "every rank must be started with the same command, modules and data"),
            ("weights", "make the members alike on every rank, from one seed: ch.instances(seed=)"),
        ):
            found = differences(first[what], other[what])
            if found:
                raise ValueError(
                    f"rank {rank} ({ranks.peers[rank].host}) has {_OTHER[what]} than rank 0 "
                    f"({ranks.peers[0].host}): {found}; {mend}"
                )


@dataclass
class OverRanks:
    """One rank's part of a run.

    Args:
        ranks: all of them.
        whole: the stack of all members.
        data: where ``whole`` is.
        settings: of all members.
        rates: the learning rate, one or one a member.
        device: where to train.
    """

    ranks: Ranks
    whole: Stack
    data: Data
    settings: Settings
    rates: float | Tensor
    device: str | torch.device | None

    def __post_init__(self) -> None:
        ranks = self.ranks
        mine = shares_of(self.whole, self.data, self.settings, ranks.size)
        self.shares: list[list[int]] = ranks.exchange(mine, "their shares")[0]
        team = [rank for rank, share in enumerate(self.shares) if share]
        idle = [rank for rank, share in enumerate(self.shares) if not share]
        ranks.form(team)
        if idle and ranks.rank == 0:
            listed = ", ".join(map(str, idle))
            warnings.warn(
                f"{ranks.size} ranks for {len(self.whole)} members: "
                f"rank{'s' * (len(idle) > 1)} {listed} will be idle",
                ChimeraWarning,
                stacklevel=4,
            )

    @property
    def idle(self) -> bool:
        """Whether this rank holds no member."""
        return not self.shares[self.ranks.rank]

    @property
    def said(self) -> str:
        """Who this is, for errors."""
        members = [self.whole.members[position] for position in self.shares[self.ranks.rank]]
        listed = ", ".join(map(str, members[:8])) + (", ..." if len(members) > 8 else "")
        return f"on rank {self.ranks.rank}, which holds the members {listed}"

    def run(
        self,
        directory: RunDirectory | None,
        data: Data,
        schedule: Schedule,
        told: Row,
        finish: FinishTogether,
        started: float,
        progress: Progress | None,
    ) -> Result:
        """The result of the run, the same on every rank.

        Args:
            directory: where it is written down, as this rank has it.
            data: as it was given.
            schedule: how often it is written down.
            told: what the run was told.
            finish: makes the result.
            started: when it was, as ``time.perf_counter`` says.
            progress: called by rank 0 with each epoch's record.
        """
        ranks = self.ranks
        if ranks.rank:
            progress = None
        if directory is None:
            watching = Watching(ranks)
            if self.idle:
                return self._wait(finish, watching, "")
            training = self._training(data, lambda: watching.look(None))
            return finish(training, started, progress)
        with Signals() as signals:
            stopping = AgreedStopping(signals, ranks)
            run = Written(directory, stopping, started, ranks)
            if self.idle:
                return self._wait(finish, stopping, run.how_to_go_on)
            training = self._training(data, run.poll)
            return run.fit(training, schedule, told, finish, progress)

    def _training(self, data: Data, poll: Poll) -> Training:
        positions = self.shares[self.ranks.rank]
        share = share_of(self.whole, positions, self.settings, self.rates, self.device)
        together = Together(self.ranks, self.shares, poll)
        return Training(share.stack, share.place(data), share.settings, share.rates, poll, together)

    def _wait(self, finish: FinishTogether, stopping: Stopping, how_to_go_on: str) -> Result:
        """The result, of a rank that holds no member: it waits for the others."""
        ranks = self.ranks

        def look() -> None:
            ranks.look_at_times()
            stopping.look(None)
            number = stopping.number
            if number is not None:
                ranks.wait_until(
                    lambda: ranks.heard("stopped") is not None, lambda: [0], "to stop", 25
                )
                raise stopped(number, f"stopped; {how_to_go_on}")

        ranks.wait_until(
            lambda: ranks.heard("trained") is not None,
            lambda: ranks.team,
            "the end of the training",
            float("inf"),
            look,
        )
        return finish.gathered(None, None)
