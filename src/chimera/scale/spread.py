"""One call of a network that is spread over the ranks by rows: cut, checked, run, put together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chimera.build.inputs import Inputs
from chimera.scale.attributes import KeptAttributes
from chimera.scale.mixing import ROWS, known, probe, probe_sizes, refuse, suspects
from chimera.scale.rows import (
    Batch,
    Shares,
    batch_of,
    dealt_too,
    given_rows,
    joined_rows,
    own_rows,
    weighted_rows,
)
from chimera.scale.world import from_rank, tell_all

# So many ranks' rows are run together, once for each size of a batch, to see whether they mix.
MOST_SHARES = 8

Call = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class Spread:
    """The rows of each call over the ranks.

    Args:
        net: the network, which this rank can run.
        device: where this rank computes.
        inputs: "same": every rank is given the whole batch. "each": each its own rows.
        whole: positions and names of arguments without rows.

    Attributes:
        apart: whether each rank is given its own rows.
    """

    def __init__(
        self, net: nn.Module, device: torch.device, inputs: str, whole: frozenset[int | str]
    ) -> None:
        self._net, self._device, self._inputs, self._whole = net, device, inputs, whole
        self._suspects = suspects(net)
        self._synchronized = any(isinstance(m, nn.SyncBatchNorm) for m in net.modules())
        self._probed: set[bool] = set()
        self._sizes: set[tuple[bool, int]] = set()
        self._compared = False
        self._kept = KeptAttributes()
        self.apart = inputs == "each"

    def run(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The outputs; ``call`` runs the network on this rank's part."""
        given = batch_of(args, kwargs, self._whole)
        rank, ranks = dist.get_rank(), dist.get_world_size()
        if self._inputs == "same":
            self._compare(given)
            shares, join = Shares.even(given.rows, ranks), joined_rows
            part = shares.part(rank)
        else:
            shares, join = Shares(tuple(tell_all(given.rows))), weighted_rows
            part = slice(0, given.rows)
        self._check(given, shares)
        if not shares.rows:
            raise ValueError("the batch has no rows on any rank; give one row or more")
        lend = 0 in shares.counts and not self._synchronized
        if self._inputs == "same":
            if lend and not shares.counts[rank]:
                part = slice(0, 1)
            own = own_rows(given, shares, part)
        else:
            lent = self._lent(given, shares) if lend else given
            own = given_rows(given if given.rows else lent)
        there = self._here(own)
        output = call(there.args, there.kwargs)
        self._kept.look(self._net)
        return join(output, shares, own.rows)

    def _lent(self, given: Batch, shares: Shares) -> Batch:
        """A row of another rank, for those that have none; all ranks must call this."""
        lender = next(rank for rank, count in enumerate(shares.counts) if count)
        row = from_rank(_on_cpu(given[0:1]) if dist.get_rank() == lender else None, lender)
        assert isinstance(row, Batch)
        return row

    def _here(self, batch: Batch) -> Inputs:
        return batch.inputs.map(lambda x: x.to(self._device) if isinstance(x, Tensor) else x)

    def _compare(self, given: Batch) -> None:
        """Whether the ranks were given one batch, asked at the first call."""
        if self._compared:
            return
        if len(set(tell_all(_fingerprint(given)))) > 1:
            raise ValueError(
                "the ranks were called with different batches; give every rank the same (seed the "
                "order of the data alike on all), or write ch.distribute(net, inputs='each') where "
                "each rank has rows of its own"
            )
        self._compared = True

    def _check(self, given: Batch, shares: Shares) -> None:
        """Refuse a network whose rows mix, in the first calls of each mode and size."""
        found = known(self._suspects)
        if found is not None:
            raise ValueError(str(found))
        mode, together = self._net.training, self._inputs == "same"
        most_rows = given.rows if together else max(shares.counts)
        if most_rows < 2 or self._synchronized:
            return
        self._check_few(given, shares, mode, together)
        if together and (mode, given.rows) not in self._sizes:
            self._check_size(given, shares)
            self._sizes.add((mode, given.rows))

    def _check_size(self, given: Batch, shares: Shares) -> None:
        """Refuse a network in which this many rows give others than the ranks' shares of them."""
        counts = [count for count in shares.counts if count][:MOST_SHARES]
        some = given[: sum(counts)]
        here = Batch(self._here(some), some.rows, some.cut)
        try:
            mixed = probe_sizes(self._net, here, counts)
        except Exception as error:
            if hint := dealt_too(self._net, given, counts[0]):
                error.add_note(f"distribute: {hint}")
            raise
        refuse(mixed)

    def _check_few(self, given: Batch, shares: Shares, mode: bool, together: bool) -> None:
        """Refuse a network in which the first rows show that they mix."""
        if mode in self._probed:
            return
        few = given[:ROWS]
        if not together:
            most = shares.counts.index(max(shares.counts))
            few = from_rank(_on_cpu(few) if dist.get_rank() == most else None, most)
        here = self._here(few)
        hint = dealt_too(self._net, given, few.rows)
        try:
            found = probe(self._net, Batch(here, few.rows, few.cut))
        except Exception as error:
            if hint:
                error.add_note(f"distribute: {hint}")
            raise
        mixed = found.mixed
        refuse(replace(mixed, mend=f"{mixed.mend}; {hint}") if mixed and hint else mixed)
        self._kept.add(found.kept)
        self._probed.add(mode)


def _on_cpu(batch: Batch) -> Batch:
    inputs = batch.inputs.map(lambda x: x.detach().cpu() if isinstance(x, Tensor) else x)
    return Batch(inputs, batch.rows, batch.cut)


def _fingerprint(batch: Batch) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for leaf in batch.inputs.leaves():
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            numbers = leaf.detach().cpu().contiguous().reshape(-1)
            digest.update(numbers.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
