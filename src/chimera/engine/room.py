"""In how many chunks members run: as few as the memory of a step allows.

Contract: what is asked for follows from shapes and the machine's memory alone. A step must hold
parameters, gradients, the optimizer's state, arguments, and the activations that are saved for the
backward pass; what lives beside these, most of it gradients of activations, is less the fewer
members run at once.
"""

from __future__ import annotations

import math

from torch import Tensor

from chimera.draws.mode import Key
from chimera.engine.eager import Eager
from chimera.engine.learned import learn
from chimera.engine.prediction import few_of, memory_of, predicted, saved
from chimera.stack.each import Arguments

# Of the memory of the machine, what a step may take unless it is told.
SHARE = 0.8
# Parameters and arguments of all members below which nothing is predicted.
WATCHED_FROM = 16 << 20
# Below this many bytes a step may take what it likes; above, this much more than it must hold.
# Predictions see no working memory of an operation: what is held to 1.1 took up to 1.3.
FREE, MORE = 1 << 30, 1.1
# At most, of what is saved for the backward pass, what activations and their gradients take.
MOST_OF_SAVED = 3
# Tensors of the optimizer's as large as a parameter: two means, and what a step works in.
STATES = 3


def count_of(eager: Eager, given: Arguments, key: Key, memory: int | None) -> tuple[int, str]:
    """In how many chunks the members run, and why in words, where that is more than one.

    Args:
        eager: whose step it is.
        given: arguments of all members.
        key: of the draws.
        memory: the most bytes that a step may take in all; unless given, a share of the machine's,
            and from 1 GiB on little more than a step must hold.

    Raises:
        ValueError: not even parameters, gradients and the optimizer's state fit in ``memory``.
        Uncapturable: the step is more than tensor operations.
    """
    members = len(eager.stack)
    weights = sum(tensor.nbytes for tensor in eager.own())
    data = every = 0
    for leaf, own in zip(given.leaves, given.own, strict=True):
        if isinstance(leaf, Tensor):
            data += leaf.nbytes
            every += leaf.nbytes * (1 if own else members)
    if memory is None and (members == 1 or weights + every < WATCHED_FROM):
        return 1, ""
    fixed = weights * (2 + STATES) + data
    if memory is not None and fixed >= memory:
        raise ValueError(
            f"memory={memory} bytes do not hold parameters, gradients, the optimizer's state and "
            f"the arguments, {fixed} bytes together"
        )
    with eager.surroundings.aside():
        learn(eager.stack, eager.call, given, key)
        few, theirs = few_of(eager, given, key)
        held = round(saved(few, theirs, key) * members)
        if memory is None and fixed + MOST_OF_SAVED * held < FREE:
            return 1, ""
        each = predicted(few, theirs)
    limit = memory or round(SHARE * memory_of(eager.stack.device))
    count = _parts(each * members, limit - fixed, members)
    told = (
        f"members run in {count} chunks: all at once take {_mib(fixed + each * members)} MiB by "
        f"prediction, of {_mib(limit)}"
    )
    if memory is None:
        must = 4 * weights + data  # parameters, gradients and two means
        live = max(each * members - weights, 0)  # what a recording gives are gradients
        limit = max(FREE, round(MORE * (must + held)))
        fewer = _parts(live, limit - must, members)
        if fewer > count:
            count = fewer
            told = (
                f"members run in {count} chunks: all at once take {_mib(must + live)} MiB by "
                f"prediction, where a step must hold {_mib(must + held)}"
            )
    return count, told if count > 1 else ""


def _parts(live: float, room: float, members: int) -> int:
    """In how many parts the members' activations fit in ``room``, as far as one member's does."""
    return min(members, math.ceil(live / max(room, live / members, 1)))


def _mib(size: float) -> int:
    return round(size / 2**20)
