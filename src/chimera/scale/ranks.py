"""The ranks of a run: what they tell each other, and what becomes of all when one fails.

Small things (who is there, where a rank stands, what failed) go through the store of the process
group, where every wait looks after failed and dead ranks and ends in time; figures and tensors go
through gloo. Nothing here waits for a rank that the kernel says is gone.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from chimera.scale.joined import Store, default_store, prefixed, restarts, seconds_to_wait
from chimera.scale.peers import Peer
from chimera.scale.settle import settle_at_exit

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


class Ranks:
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
        self._exchanges = self._gathers = 0
        self._looked = 0.0
        self._group: Any = None
        self._everyone: Any = None
        self.team: list[int] = list(range(size))
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
                f"so its host or the launcher is gone: {_first_line(error)}",
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

    # Figures and tensors

    def form(self, team: Sequence[int]) -> None:
        """Let these ranks be the ones that train; all ranks must call this."""
        self.team = list(team)
        seconds = timedelta(seconds=seconds_to_wait())
        self._group = dist.new_group(self.team, timeout=seconds, backend="gloo")
        self._everyone = self._group
        if len(self.team) < self.size:
            self._everyone = dist.new_group(None, timeout=seconds, backend="gloo")

    def gather(self, mine: Tensor, what: str, look: Look | None = None) -> list[Tensor]:
        """The tensors of the team, of one shape and on the CPU, in the order of its ranks.

        Raises:
            PeerError: a rank failed, is gone, or did not come in time.
        """
        self._gathers += 1
        name = f"gather/{len(self.team)}/{self._gathers}"
        keys = [f"{name}/{rank}" for rank in self.team]
        self.tell(f"{name}/{self.rank}", True)
        found = [torch.empty_like(mine) for _ in self.team]
        work = dist.all_gather(found, mine.contiguous(), group=self._group, async_op=True)

        def missing() -> list[int]:
            there = zip(self.team, keys, strict=True)
            return [rank for rank, key in there if self.heard(key) is None]

        self.wait_until(work.is_completed, missing, what, look=look)
        try:
            work.wait()
        except RuntimeError as error:
            # The connection broke: whoever did it is about to be seen as failed or gone.
            self.wait_until(lambda: False, missing, f"{what}: {_first_line(error)}", seconds=5)
        return found

    def gather_from_all(self, mine: Any, what: str) -> list[Any]:
        """As `gather_objects`, from every rank."""
        team, group = self.team, self._group
        self.team, self._group = list(range(self.size)), self._everyone
        try:
            return self.gather_objects(mine, what)
        finally:
            self.team, self._group = team, group

    def gather_objects(self, mine: Any, what: str, look: Look | None = None) -> list[Any]:
        """What each of the team gives: tensors and plain containers of them."""
        buffer = io.BytesIO()
        torch.save(mine, buffer)
        content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        sizes = [int(size) for size in self.gather(torch.tensor([len(content)]), what, look)]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(content)] = content
        return [
            torch.load(io.BytesIO(bytes(part[:size].numpy())), weights_only=True)
            for size, part in zip(sizes, self.gather(padded, what, look), strict=True)
        ]

    # The end

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Let all ranks know of an error inside, of which the first rank to fail speaks.

        Another rank's error becomes a PeerError that is `told`. What a signal raises is no error.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if not (isinstance(error, PeerError) and error.told):
                self._fail(error)
            raise

    @contextmanager
    def met(self) -> Iterator[None]:
        """The block of a run: ranks meet, guard it, and leave together where it ends well."""
        with self.guard():
            self.meet()
            yield
            self.leave()

    def _fail(self, error: BaseException) -> None:
        text = f"{type(error).__name__}: {_first_line(error)}"
        try:
            first = self.tell_first("failed", text)
        except PeerError:
            return
        if not first:
            rank, said = self.first("failed") or (self.rank, text)
            raise PeerError(f"rank {rank} failed: {said}", told=True) from error

    def leave(self) -> None:
        """Say that this rank has done its part; rank 0 waits a while for the others."""
        self.tell(f"left/{self.rank}", True)
        if self.rank == 0:  # it may be the host of the store
            self.exchanged_by_all("left")
        groups = {id(group): group for group in (self._group, self._everyone)}
        for group in groups.values():
            if group is not None and group is not dist.GroupMember.NON_GROUP_MEMBER:
                dist.destroy_process_group(group)
        self._group = self._everyone = None

    def exchanged_by_all(self, key: str, seconds: float = 10) -> bool:
        """Whether every rank that lives told ``key/<rank>`` in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            waiting = [p for p in self.peers if self.heard(f"{key}/{p.rank}") is None]
            if not waiting:
                return True
            if all(peer.is_gone() for peer in waiting):
                return False
            time.sleep(0.002)
        return False


_runs = 0


def current() -> Ranks | None:
    """The ranks of the process group, for one more run; None where this process is alone.

    Every rank must call this as often as the others.
    """
    global _runs
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    settle_at_exit()
    _runs += 1
    name = f"chimera/{restarts()}/{_runs}"
    return Ranks(name, default_store(), dist.get_rank(), dist.get_world_size())


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _listed(peers: Sequence[Peer]) -> str:
    return ", ".join(map(str, peers))
