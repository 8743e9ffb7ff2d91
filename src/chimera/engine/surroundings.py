"""What stands around the tensors of a call: Python's values, which a recording holds for good.

Contract: a recording serves in the state of these values in which it was made, and in no other; to
record leaves them as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from chimera.engine.program import Uncapturable
from chimera.engine.reached import DERIVED, GONE, Reached
from chimera.paths.version import unchanged, version
from chimera.stack.stack import Stack

# As many states are recorded; what changes more often is left to eager.
MOST_STATES = 4


class Surroundings:
    """The states of what a call reads, numbered as they come.

    Args:
        roots: gives what the call begins with: the network, the loss.
        network: gives the modules whose tensors and modes are looked at elsewhere.

    Attributes:
        reason: why nothing more is recorded, where that is so.
        earlier: how many states a run had before it was stopped.
    """

    def __init__(
        self, roots: Callable[[], Mapping[str, Any]], network: Callable[[], list[nn.Module]]
    ) -> None:
        self._roots, self._network = roots, network
        self._states: list[Reached] = []
        self._current = 0
        self._names: dict[str, None] = {}
        self.earlier = 0
        self.reason = ""

    @property
    def count(self) -> int:
        """How many states there were, of those that count towards the most."""
        return self.earlier + len(self._states)

    @property
    def standing(self) -> int:
        """The number of the state that stood when it was last looked at."""
        return self._current

    def state(self) -> int:
        """The number of the state that stands; 0 until something is recorded, -1 for any more."""
        if self.reason or not self._states or self._states[self._current].holds():
            return self._current
        self._names |= dict.fromkeys(self._states[self._current].changed())
        for number, state in enumerate(self._states):
            if state.holds():
                self._current = number
                return number
        if self.count >= MOST_STATES:
            self._stop(
                f"a recording holds Python's values for good, and {self._told()} changed; a tensor "
                "that is changed in place is followed"
            )
            return self._current
        self._current = len(self._states)
        self._states.append(self._look())
        return self._current

    def _told(self) -> str:
        return ", ".join(list(self._names)[:3]) or "what the call reads"

    def _stop(self, reason: str) -> None:
        """Record nothing any more."""
        self.earlier, self._states, self._current = self.count, [], -1
        self.reason = reason

    @contextmanager
    def untouched(self, state: int) -> Iterator[None]:
        """Around a recording: put back what it changes.

        Args:
            state: in which the recording is to serve.

        Raises:
            Uncapturable: it changed something, or reads what cannot be followed.
        """
        if not self._states:
            self._states.append(self._look())
        elif self.state() != state:
            raise Uncapturable(f"the call writes state ({self._told()})")
        reached = self._states[self._current]
        if reached.unfollowed:
            raise Uncapturable(
                f"{reached.unfollowed[0]}, of which a recording cannot tell what is read"
            )
        kept = _Kept(reached)
        reads_it, wrote = False, ""
        try:
            yield
        finally:
            reads_it = not reached.holds()
            wrote = ", ".join(kept.put_back()[:3])
        if wrote:
            reason = f"the call writes state ({wrote})"
            if reads_it:  # each call would find another state
                self._stop(reason)
            raise Uncapturable(reason)

    def _look(self) -> Reached:
        return Reached(self._roots(), self._network())


def around(module: nn.Module, more: Mapping[str, Any] | None = None) -> Surroundings:
    """The surroundings of calls of a Stack, or of one network.

    Args:
        module: what is called.
        more: what the call begins with besides, by names.
    """

    def network() -> list[nn.Module]:
        if not isinstance(module, Stack):
            return list(module.modules())
        return [part for group, _ in module.parts() for _, part in group.reading.modules]

    def roots() -> dict[str, Any]:
        if not isinstance(module, Stack):
            return {"network": module, **(more or {})}
        return {"member": [group.template for group, _ in module.parts()], **(more or {})}

    return Surroundings(roots, network)


class _Kept:
    """Copies of the places of values, to be put back."""

    def __init__(self, reached: Reached) -> None:
        self._reached = reached
        self._spaces = [dict(space) for _, space in reached.spaces]
        self._values = [space.get(key, GONE) for space, key in _pairs(reached)]
        self._classes = [dict(vars(kind)) for kind in reached.classes]
        self._cells = [cell.cell_contents for _, cell in reached.cells]
        self._lists = [list(items) for _, items in reached.lists]
        self._sets = [set(items) for _, items in reached.sets]
        self._arrays = [array.copy() for _, array in reached.arrays]
        self._tensors = [(version(t), t.detach().clone()) for _, t in reached.tensors]
        self._slots = [getattr(thing, name, GONE) for _, thing, name in reached.slots]

    def put_back(self) -> list[str]:
        """Let everything be as it was; gives the names of what was not."""
        return [
            *self._in_spaces(),
            *self._one_by_one(),
            *self._in_containers(),
            *self._in_tensors(),
        ]

    def _in_spaces(self) -> list[str]:
        wrote = []
        for (place, space), before in zip(self._reached.spaces, self._spaces, strict=True):
            names = _different(space, before)
            if names:
                wrote += [f"{place}.{name}" for name in names if name not in DERIVED]
                space.clear()
                space.update(before)
        for kind, own in zip(self._reached.classes, self._classes, strict=True):
            for name in _different(vars(kind), own):
                wrote.append(f"{kind.__name__}.{name}")
                if name in own:
                    setattr(kind, name, own[name])
                else:
                    delattr(kind, name)
        return wrote

    def _one_by_one(self) -> list[str]:
        wrote, reached = [], self._reached
        pairs = zip(_pairs(reached), reached.places, self._values, strict=True)
        for (space, key), place, value in pairs:
            if space.get(key, GONE) is value:
                continue
            wrote.append(place)
            if value is GONE:
                del space[key]
            else:
                space[key] = value
        for (name, cell), contents in zip(reached.cells, self._cells, strict=True):
            if cell.cell_contents is not contents:
                wrote.append(name)
                cell.cell_contents = contents
        for (place, thing, name), value in zip(reached.slots, self._slots, strict=True):
            if getattr(thing, name, GONE) is not value:
                wrote.append(place)
                if value is GONE:
                    delattr(thing, name)
                else:
                    setattr(thing, name, value)
        return wrote

    def _in_containers(self) -> list[str]:
        wrote = []
        for (place, items), before in zip(self._reached.lists, self._lists, strict=True):
            if len(items) != len(before) or any(a is not b for a, b in zip(items, before)):  # noqa: B905
                wrote.append(place)
                items.clear()
                items.extend(before)
        for (place, members), had in zip(self._reached.sets, self._sets, strict=True):
            if members != had:
                wrote.append(place)
                members.clear()
                members.update(had)
        for (place, array), numbers in zip(self._reached.arrays, self._arrays, strict=True):
            if array.tobytes() != numbers.tobytes():
                wrote.append(place)
                array[...] = numbers
        return wrote

    @torch.no_grad()
    def _in_tensors(self) -> list[str]:
        wrote = []
        for (place, tensor), (at, copy) in zip(self._reached.tensors, self._tensors, strict=True):
            if not unchanged(tensor, at) or not _equal(tensor, copy):
                wrote.append(place)
                tensor.copy_(copy)
        return wrote


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are the same; batch norm changes some that torch does not count."""
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _pairs(reached: Reached) -> list[tuple[dict[Any, Any], Any]]:
    return list(zip(reached.dicts, reached.keys, strict=True))


def _different(now: Mapping[Any, Any], before: Mapping[Any, Any]) -> list[Any]:
    """The names whose values are others."""
    names = {**before, **now}
    return [n for n in names if now.get(n, GONE) is not before.get(n, GONE)]
