"""What stands around the tensors of a call: Python's values, which a recording holds for good.

Contract: a recording serves in the state of these values in which it was made, and in no other; to
record leaves them as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from chimera.engine.kept import Kept
from chimera.engine.places import PLAIN
from chimera.engine.program import Uncapturable
from chimera.engine.reached import Reached
from chimera.stack.each import Arguments
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
        try:
            self._states.append(self._look())
        except Exception as error:  # noqa: BLE001 - of an object that says what it holds by Python
            self._stop(f"what the call reads cannot be followed ({type(error).__name__}: {error})")
            return self._current
        self._current = len(self._states) - 1
        return self._current

    def _told(self) -> str:
        return ", ".join(list(self._names)[:3]) or "what the call reads"

    def _stop(self, reason: str) -> None:
        """Record nothing any more."""
        self.earlier, self._states, self._current = self.count, [], -1
        self.reason = reason

    @contextmanager
    def untouched(self, state: int, given: Arguments | None = None) -> Iterator[None]:
        """Around a recording: put back what it changes.

        Args:
            state: in which the recording is to serve.
            given: the arguments that it is made with.

        Raises:
            Uncapturable: it changed something, or reads what cannot be followed.
        """
        for leaf in () if given is None else given.leaves:
            if not isinstance(leaf, (Tensor, *PLAIN)):
                raise Uncapturable(
                    f"an argument is a {type(leaf).__name__}, of which a recording cannot tell "
                    "what is read"
                )
        if not self._states:
            self._states.append(self._look())
        elif self.state() != state:
            raise Uncapturable(f"the call writes state ({self._told()})")
        reached = self._states[self._current]
        _check_followed(reached)
        kept = Kept(reached.places)
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

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around calls that are none of the run's: what they change is put back.

        Raises:
            Uncapturable: they read what cannot be put back.
        """
        reached = self._look()
        _check_followed(reached)
        kept = Kept(reached.places)
        try:
            yield
        finally:
            kept.put_back()

    def _look(self) -> Reached:
        return Reached(self._roots(), self._network())


def _check_followed(reached: Reached) -> None:
    if reached.places.unfollowed:
        raise Uncapturable(
            f"{reached.places.unfollowed[0]}, of which a recording cannot tell what is read"
        )


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
