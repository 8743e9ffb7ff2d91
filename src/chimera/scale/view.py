"""One network seen as a network over devices.

The view shares everything with the network (its ``__dict__`` is the network's own), so that names,
keys, modes and attributes are the network's, and is of a subclass of its class. Only the call is
another: the batch is cut, the parts are computed, the outputs put together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from chimera.stack.explain import Explanation

M = TypeVar("M", bound=nn.Module)


class Way(Protocol):
    """How a network runs over devices.

    Attributes:
        reason: which way it is, and why, a line or more.
        in_parts: whether each rank holds parts of the parameters.
    """

    reason: str
    in_parts: bool

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The network's outputs."""

    def whole(self, value: Any) -> Any:
        """A value of a ``state_dict`` as the network alone would have it."""

    def taken(self, state: dict[str, Any]) -> dict[str, Any]:
        """A ``state_dict`` of the network alone, as this one's parts take it."""

    def write(self, action: Callable[[], None]) -> None:
        """Run ``action``, which writes the network to a file, once."""


class Distributed:
    """What a network over devices does in its own way."""

    __slots__ = ("_way",)

    _way: Way

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A module of the network's own class, as ``net[0:2]`` and the like make of its children.

        Raises TypeError where the children are parts of a sharded network.
        """
        made = cls.__mro__[2](*args, **kwargs)
        if any(isinstance(parameter, DTensor) for parameter in made.parameters()):
            raise TypeError(
                "a part of a sharded network does not run by itself, for every rank holds a piece "
                "of each parameter; cut the network before ch.distribute, or use mode='replicate'"
            )
        return made

    # Dynamo cannot follow the collectives of a call; what is compiled inside stays compiled.
    @torch.compiler.disable(reason="a call waits for other ranks")  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._way.run(args, kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As a call."""
        return self(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The state of the whole network, under its own keys, on every rank."""
        keep_vars = kwargs.pop("keep_vars", False)
        state: dict[str, Any] = super().state_dict(*args, keep_vars=True, **kwargs)  # type: ignore[misc]
        known: dict[int, Any] = {}  # what is tied stays one tensor
        for key, value in state.items():
            if id(value) not in known:
                known[id(value)] = self._way.whole(value)
            value = known[id(value)]
            state[key] = value.detach() if isinstance(value, Tensor) and not keep_vars else value
        return state

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a state of the whole network, on every rank."""
        return super().load_state_dict(self._way.taken(state_dict), *args, **kwargs)  # type: ignore[misc]

    def __in_parts__(self) -> bool:
        return self._way.in_parts

    def __write__(self, action: Callable[[], None]) -> None:
        self._way.write(action)

    def __explain__(self) -> Explanation:
        return Explanation(notes=tuple(self._way.reason.splitlines()))

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "a network over devices cannot be copied or pickled: its parts belong to processes; "
            "copy the network before ch.distribute, or its state_dict()"
        )


def view(net: M, kind: type[M], way: Way) -> M:
    """``net``, an instance of ``kind`` as it was made, run in a way of its own."""
    known = _KINDS.get(kind)
    if known is None:
        known = _KINDS[kind] = type(
            kind.__name__, (Distributed, kind), {"__slots__": (), "__module__": kind.__module__}
        )
    made = cast(Any, object.__new__(known))
    object.__setattr__(made, "__dict__", net.__dict__)
    object.__setattr__(made, "_way", way)
    return cast(M, made)


_KINDS: dict[type, type] = {}
