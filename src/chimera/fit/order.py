"""The order in which a member sees the data: a permutation for every seed, member and epoch.

It is the same on every device and for any number of members.
"""

from collections.abc import Iterator

from jaxtyping import Int64
from torch import Tensor

from chimera.draws.counter import derive, permutations
from chimera.fit.data import Part

_ORDER = 0x6F72646572  # "order": keeps these keys apart from those that a network's draws have


def order(
    keys: Int64[Tensor, " members"], epoch: int, samples: int
) -> Int64[Tensor, "members {samples}"]:
    """One permutation of ``range(samples)`` a member: int64 [members, samples].

    Args:
        keys: the members' keys of ``draws.counter.member_keys``, int64 [members].
        epoch: which epoch, from 0.
        samples: how many samples there are.
    """
    return permutations(derive(keys, _ORDER, epoch), samples)


def batches(part: Part, rows: Int64[Tensor, "members samples"], batch_size: int) -> Iterator[Part]:
    """Each member's batches of one epoch, side by side; the last may be short.

    Args:
        part: the samples.
        rows: every member's order, int64 [members, samples].
        batch_size: how many samples a member sees at once.

    Yields ``x`` [members, batch, ...] and ``y`` [members, batch, ...].
    """
    for start in range(0, rows.shape[1], batch_size):
        chosen = rows[:, start : start + batch_size]
        flat = chosen.flatten()
        x, y = (tensor.index_select(0, flat) for tensor in (part.x, part.y))
        yield Part(
            x.view(*chosen.shape, *part.x.shape[1:]), y.view(*chosen.shape, *part.y.shape[1:])
        )
