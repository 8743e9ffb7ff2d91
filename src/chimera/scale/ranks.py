"""The ranks of a run: what they compute together, and what becomes of all when one fails.

Figures and tensors go through gloo, and every wait for them looks after failed and dead ranks, as
`Meeting` does.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from chimera.scale.joined import Store, default_store, restarts, seconds_to_wait
from chimera.scale.meeting import Look, Meeting, PeerError, first_line
from chimera.scale.settle import settle_at_exit


class Ranks(Meeting):
    """The processes that make one run together.

    Arguments and attributes are those of a `Meeting`, and one more attribute.

    Attributes:
        team: the ranks that train.
    """

    def __init__(self, name: str, store: Store, rank: int, size: int) -> None:
        super().__init__(name, store, rank, size)
        self._gathers = 0
        self._group: Any = None
        self._everyone: Any = None
        self.team: list[int] = list(range(size))

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
            self.wait_until(lambda: False, missing, f"{what}: {first_line(error)}", seconds=5)
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
        text = f"{type(error).__name__}: {first_line(error)}"
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
