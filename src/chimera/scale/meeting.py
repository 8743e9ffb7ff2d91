"""What the ranks of a run tell each other, and how they wait.

Small things (who is there, where a rank stands, what failed) go through the store of the process
group, where every wait looks after failed and dead ranks and ends in time. Nothing here waits for a
rank that the kernel says is gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from chimera.scale.joined import Store, prefixed, seconds_to_wait
from chimera.scale.peers import Peer

Look = Callable[[], None]

_LOOK = 0.1
"""Seconds between two looks after other ranks; a look asks the store once."""


class PeerError(RuntimeError):
    """Another rank failed or is gone, so this one cannot go on.

    Attributes:
        told: whether that rank says itself what happened.
    """

    def __init__(self, message: str, told: bool) -> None:
        super().__init__(message)
        self.told = told


class Meeting:
    """The processes that make one run together.

    Args:
        name: of what they do together, the same on all of them and new each time.
        store: of the process group.
        rank: of this process.
        size: how many there are.

    Attributes:
        rank, size: as given.
        peers: all ranks, in order, once they have `met`.
    """

    def __init__(self, name: str, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store = prefixed(name, store)
        self._exchanges = 0
        self._looked = 0.0
        self.peers: list[Peer] = []

    # What the store holds

    def tell(self, key: str, value: Any) -> None:
        """Let all ranks know ``value``, which JSON can say, as ``key``."""
        self._asking(lambda: self._store.set(key, json.dumps(value)))

    def tell_first(self, key: str, value: Any) -> bool:
        """As `tell`, unless a rank did so before; whether none had."""
        mine = json.dumps([self.rank, value])
        found = self._asking(lambda: self._store.compare_set(key, "", mine))
        return bool(found.decode() == mine)

    def first(self, key: str) -> tuple[int, Any] | None:
        """Who told ``key`` first, and what; None where nobody did."""
        said = self.heard(key)
        return None if said is None else (said[0], said[1])

    def heard(self, key: str) -> Any:
        """What was told as ``key``; None where nothing was."""
        if not self._asking(lambda: self._store.check([key])):
            return None
        return json.loads(self._asking(lambda: self._store.get(key)))

    def _asking(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RuntimeError as error:
            raise PeerError(
                f"rank {self.rank} cannot reach the store of the process group, "
                f"so its host or the launcher is gone: {first_line(error)}",
                told=False,
            ) from error

    # Waiting

    def look(self) -> None:
        """Raise PeerError where a rank failed or is gone."""
        failed = self.first("failed")
        if failed is not None and failed[0] != self.rank:
            raise PeerError(f"rank {failed[0]} failed: {failed[1]}", told=True)
        gone = [peer for peer in self.peers if peer.rank != self.rank and peer.is_gone()]
        # One that failed said so before it ended.
        failed = self.first("failed") if gone else None
        if failed is not None and failed[0] != self.rank:
            raise PeerError(f"rank {failed[0]} failed: {failed[1]}", told=True)
        gone = [peer for peer in gone if self.heard(f"left/{peer.rank}") is None]
        if gone:
            raise PeerError(f"{_listed(gone)} ended without a word, as a kill does", told=False)

    def look_at_times(self) -> None:
        """As `look`, at most ten times a second."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            self.look()

    def wait_until(
        self,
        done: Callable[[], bool],
        missing: Callable[[], Sequence[int]],
        what: str,
        seconds: float | None = None,
        look: Look | None = None,
    ) -> None:
        """Wait for other ranks, looking after them meanwhile.

        Args:
            done: whether the wait is over.
            missing: the ranks that are waited for, for the message.
            what: is waited for, for the message.
            seconds: how long at most; the time of `seconds_to_wait` unless given.
            look: called at each turn, may raise; `look_at_times` unless given.

        Raises:
            PeerError: a rank failed or is gone, or the time is over; the missing are named.
        """
        most = seconds_to_wait() if seconds is None else seconds
        deadline, pause = time.monotonic() + most, 0.0005
        while not done():
            (self.look_at_times if look is None else look)()
            if time.monotonic() > deadline:
                late = ", ".join(f"rank {rank}" for rank in missing())
                raise PeerError(
                    f"{late} of {self.size} ranks did not come in {most:g} s: {what}", told=False
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.01)

    def exchange(self, value: Any, what: str, look: Look | None = None) -> list[Any]:
        """What each rank gives, in the order of the ranks; all of them must call this.

        Args:
            value: what JSON can say.
            what: it is, for the message that names missing ranks.
            look: as in `wait_until`.
        """
        self._exchanges += 1
        keys = [f"exchange/{self._exchanges}/{rank}" for rank in range(self.size)]
        self.tell(keys[self.rank], value)

        def missing() -> list[int]:
            return [rank for rank, key in enumerate(keys) if self.heard(key) is None]

        self.wait_until(
            lambda: bool(self._asking(lambda: self._store.check(keys))), missing, what, look=look
        )
        return [self.heard(key) for key in keys]

    def meet(self) -> None:
        """Wait for all ranks at the start, and get to know their processes."""
        said = self.exchange(vars(Peer.own(self.rank)), "the start of the run")
        self.peers = [Peer.told(one) for one in said]


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return str(error).strip().partition("\n")[0]


def _listed(peers: Sequence[Peer]) -> str:
    return ", ".join(map(str, peers))
