"""When a run stops: at once where it is asked to, over ranks at a step that all of them reach.

A rank that gets a signal tells the others, and each says where it stands; they all go on to where
the foremost is and stop there. None waits for a rank that is gone, and none waits long.
"""

import time
from collections.abc import Callable

from chimera.fit.signals import Asked, Signals
from chimera.scale.meeting import PeerError
from chimera.scale.ranks import Ranks

Position = tuple[int, int]
"""Steps taken and epochs complete: how far a rank is."""

_SECONDS = 6.0
"""Agreeing takes no longer, and the writing that follows twice that: launchers wait for 30 s."""


class Stopping:
    """One process: a signal stops it where it is."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    @property
    def number(self) -> int | None:
        """The signal that stops the run; None where none came."""
        return self._signals.number

    def look(self, position: Position | None) -> None:
        """Raise what stops the run where it stands at ``position``; None for one that only waits.

        Raises:
            Asked: a signal came.
        """
        self._signals.check()


class Watching(Stopping):
    """One of several ranks of a run that is not written down: signals do what they always do."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(Signals())
        self._ranks = ranks

    def look(self, position: Position | None) -> None:
        """Raise PeerError where another rank failed or is gone."""
        self._ranks.look_at_times()


class AgreedStopping(Stopping):
    """One of several ranks.

    Args:
        signals: that this process gets.
        ranks: all of them.
    """

    def __init__(self, signals: Signals, ranks: Ranks) -> None:
        super().__init__(signals)
        self._ranks = ranks
        self._until: Position | None = None
        self._number: int | None = None
        self._since: float | None = None
        self._looked = 0.0

    def look(self, position: Position | None) -> None:
        """As for one process, once the step is reached that all ranks agreed on.

        Raises:
            Asked: a signal came to any rank.
            PeerError: a rank failed, is gone, or did not answer.
        """
        if self._until is None:
            self._hear(position)
        if self._until is not None and position is not None and position >= self._until:
            assert self._number is not None
            raise Asked(self._number)

    def wait(self) -> None:
        """Look after the others while a checkpoint is written.

        Raises PeerError as `look`, and where a stop takes too long.
        """
        self._ranks.look_at_times()
        if self._since is not None and time.monotonic() - self._since > 2 * _SECONDS:
            raise PeerError("the ranks did not write their checkpoint in time", told=False)

    @property
    def number(self) -> int | None:
        """The signal that stops the run; None where none came."""
        return self._number if self._number is not None else self._signals.number

    def _hear(self, position: Position | None) -> None:
        mine = self._signals.number
        now = time.monotonic()
        if mine is None and now - self._looked < 0.1:
            return
        self._looked = now
        if mine is not None:
            self._ranks.tell_first("stop", mine)
        asked = self._ranks.first("stop")
        if asked is None:
            self._ranks.look_at_times()
            return
        self._number, self._since = asked[1], now
        if position is not None:
            self._until = self._agreed(position)

    def _agreed(self, position: Position) -> Position:
        ranks = self._ranks
        ranks.tell(f"stopping/{ranks.rank}", position)
        places: dict[int, Position] = {}

        def missing() -> list[int]:
            for rank in ranks.team:
                if rank not in places and (said := ranks.heard(f"stopping/{rank}")) is not None:
                    places[rank] = (said[0], said[1])
            return [rank for rank in ranks.team if rank not in places]

        done: Callable[[], bool] = lambda: not missing()  # noqa: E731
        ranks.wait_until(done, missing, "they were asked to stop", _SECONDS)
        return max(places.values())
