"""The chunks of a step: found once a kind, or as a run chose before it was stopped."""

from __future__ import annotations

from chimera.draws.mode import Key
from chimera.engine.choice import Rule
from chimera.engine.chunks import CHUNKS, Chunks
from chimera.engine.eager import Eager
from chimera.engine.kinds import name_of
from chimera.engine.room import count_of
from chimera.stack.each import Arguments


def check_memory(memory: object) -> None:
    """Refuse what is no number of bytes.

    Raises:
        TypeError: it is none.
    """
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int)):
        raise TypeError(f"memory is a number of bytes; got {memory!r:.60}")


def chunks_of(
    eager: Eager,
    given: Arguments,
    key: Key,
    memory: int | None,
    rule: Rule | None,
    before: str | None = None,
) -> Chunks | None:
    """The chunks in which a stack runs; None for all members at once.

    Args:
        eager: whose step it is.
        given: arguments of all members.
        key: of the draws.
        memory: the most bytes that a step may take in all; a share of the machine's unless given.
        rule: says when chunks are recorded and compiled; None for never.
        before: what the run chose before it was stopped, where it was.

    Raises:
        ValueError: not even parameters, gradients and the optimizer's state fit in ``memory``.
        Uncapturable: the step is more than tensor operations.
    """
    if before is not None:
        parts, _, chosen = before.partition(", ")
        many, _, what = parts.partition(" ")
        if what != CHUNKS:
            return None
        told = f"members run in {parts}, as the run chose before"
        return Chunks(eager, int(many), name_of(given), told, rule, chosen)
    count, told = count_of(eager, given, key, memory)
    return None if count == 1 else Chunks(eager, count, name_of(given), told, rule)
