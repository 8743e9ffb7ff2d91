"""Figures of all members, put together from the ranks that hold them; of one process, as they are.

Legend: N all members, n those of this rank, k figures.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from chimera.scale.ranks import Ranks


class Alone:
    """One process that holds all members.

    Attributes:
        ask: whether a checkpoint is wanted at the end of an epoch, as far as this process knows.
        wanted: what `ask` said when the last epoch's figures were put together.
    """

    def __init__(self) -> None:
        self.ask: Callable[[], bool] = lambda: False
        self.wanted = False

    def positions(self, everyone: Sequence[int]) -> list[int]:
        """Of positions among all members those that are held here, as positions among these."""
        return list(everyone)

    def epoch(self, mine_kn: Tensor) -> Tensor:
        """An epoch's figures, float64 on the CPU, of all members ``[k, N]``."""
        self.wanted = self.ask()
        return mine_kn

    def figures(self, mine_kn: Tensor) -> Tensor:
        """Figures, float64 on the CPU, of all members ``[k, N]``."""
        return mine_kn

    def said(self, mine_n: list[Any]) -> list[Any]:
        """What is said of each member, in JSON's words ``[N]``."""
        return mine_n

    def total(self, mine: Tensor | None) -> Tensor | None:
        """The sum over the ranks that have a tensor; None where one of them has None."""
        return mine


class Together(Alone):
    """One of several ranks, each of which holds a share.

    Args:
        ranks: all of them; their team is formed.
        shares: for each rank the positions of its members among all.
        look: called while this rank waits for others; raises to stop it.
    """

    def __init__(
        self, ranks: Ranks, shares: Sequence[Sequence[int]], look: Callable[[], None]
    ) -> None:
        super().__init__()
        self.ranks, self._shares, self._look = ranks, shares, look
        self._places = {position: i for i, position in enumerate(shares[ranks.rank])}
        team = [shares[rank] for rank in ranks.team]
        self._most = max(len(share) for share in team)
        self._order = torch.tensor([position for share in team for position in share]).argsort()
        self._lengths = [len(share) for share in team]

    def positions(self, everyone: Sequence[int]) -> list[int]:
        return [self._places[position] for position in everyone if position in self._places]

    def epoch(self, mine_kn: Tensor) -> Tensor:
        flag = torch.full((1, mine_kn.shape[1]), float(self.ask()), dtype=torch.float64)
        parts = self._gathered(torch.cat([mine_kn, flag]), "the figures of an epoch")
        self.wanted = bool(parts[0][-1, 0])
        return self._in_order([part[:-1] for part in parts])

    def figures(self, mine_kn: Tensor) -> Tensor:
        return self._in_order(self._gathered(mine_kn, "the figures of the run"))

    def said(self, mine_n: list[Any]) -> list[Any]:
        parts = self.ranks.gather_objects(mine_n, "what is said of the members", self._look)
        everyone = [value for part in parts for value in part]
        return [everyone[place] for place in self._order.tolist()]

    def total(self, mine: Tensor | None) -> Tensor | None:
        parts = self.ranks.gather_objects(mine, "the ensemble's average", self._look)
        if any(part is None for part in parts) or len({part.shape for part in parts}) > 1:
            return None
        return torch.stack(parts).sum(0)

    def _gathered(self, mine_kn: Tensor, what: str) -> list[Tensor]:
        padded = torch.zeros(len(mine_kn), self._most, dtype=torch.float64)
        padded[:, : mine_kn.shape[1]] = mine_kn
        parts = self.ranks.gather(padded, what, self._look)
        return [part[:, :length] for part, length in zip(parts, self._lengths, strict=True)]

    def _in_order(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, 1)[:, self._order]
