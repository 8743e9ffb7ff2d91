"""Which members each rank holds: shares of equal predicted cost, not of equal count."""

import heapq
from collections.abc import Sequence


def shares(costs: Sequence[float], groups: Sequence[int], ranks: int) -> list[list[int]]:
    """The positions of the members that each rank holds, in order.

    The dearest members are given out first, each to the rank that has least so far (R. L. Graham,
    "Bounds on Multiprocessing Timing Anomalies", 1969: at most 4/3 of the best). Members of a
    group, which cost the same, then lie side by side: a rank's share of a group is a run of it.

    Args:
        costs: what a step of each member costs, in any unit, above 0.
        groups: each member's group; the members of one cost the same.
        ranks: how many there are; with fewer members than ranks the last get none.
    """
    loads = [(0.0, rank) for rank in range(ranks)]
    counts: dict[int, list[int]] = {group: [0] * ranks for group in groups}
    order = sorted(range(len(costs)), key=lambda p: (-costs[p], groups[p], p))
    for position in order:
        load, rank = loads[0]
        counts[groups[position]][rank] += 1
        heapq.heapreplace(loads, (load + costs[position], rank))
    found: list[list[int]] = [[] for _ in range(ranks)]
    for group, mine in counts.items():
        members = [position for position, of in enumerate(groups) if of == group]
        start = 0
        for rank, count in enumerate(mine):
            found[rank] += members[start : start + count]
            start += count
    return [sorted(positions) for positions in found]
