"""A program: what branches of one structure do, as operations on all of them at once.

``lower`` walks aligned modules (one a lane, all of one structure) and finds for each the operation
that runs it with a lane axis; the table is filled by ``layers``, ``convolutions`` and ``nested``.
What has no operation is ``Unlowerable``: the branches then run under ``torch.vmap`` (``batched``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from chimera.fuse.joint import Joint
from chimera.fuse.lanes import Lanes


class Unlowerable(Exception):
    """A module that no operation runs with a lane axis."""


@dataclass(slots=True)
class Run:
    """One call of a program.

    Attributes:
        tensors: of the joints, in their order.
        noises: what the active dropouts multiply by, in the order in which they run; without them
            each draws by itself.
        shapes: takes the shape and dtype that every active dropout meets, when a dry run asks.
    """

    tensors: list[Tensor]
    noises: Iterator[Tensor] | None = None
    shapes: list[Met] | None = None


Operation = Callable[[Lanes, Run], Lanes]


@dataclass(frozen=True, slots=True)
class Met:
    """What an active dropout meets: its modules, one a lane, and one lane's shape and kind."""

    modules: tuple[nn.Module, ...]
    shape: tuple[int, ...]
    kind: Any


@dataclass(slots=True)
class Program:
    """What branches of one structure do.

    Attributes:
        joints: the parameters and buffers that it uses.
        moded: the modules whose mode matters, one tuple a layer.
        dropouts: one tuple a dropout, in the order in which a branch runs them.
        in_order: whether that order is known.
    """

    joints: list[Joint] = field(default_factory=list)
    moded: list[tuple[nn.Module, ...]] = field(default_factory=list)
    dropouts: list[tuple[nn.Module, ...]] = field(default_factory=list)
    in_order: bool = True
    _known: dict[tuple[tuple[int, str], ...], int] = field(default_factory=dict)

    def joint(self, modules: Sequence[nn.Module], name: str) -> int | None:
        """The index of the joint of one parameter or buffer of aligned modules; None for None."""
        if getattr(modules[0], name) is None:
            return None
        key = tuple((id(module), name) for module in modules)
        if key not in self._known:
            self._known[key] = len(self.joints)
            self.joints.append(Joint([(module, name) for module in modules]))
        return self._known[key]


Lower = Callable[[Program, tuple[Any, ...]], Operation]
_TABLE: dict[type[nn.Module], Lower] = {}


F = TypeVar("F", bound=Callable[..., Operation])


def lowers(*kinds: type[nn.Module]) -> Callable[[F], F]:
    """Register how aligned modules of some classes are lowered; a subclass may differ."""

    def register(function: F) -> F:
        for kind in kinds:
            _TABLE[kind] = function
        return function

    return register


def lower(program: Program, modules: Sequence[nn.Module]) -> Operation:
    """The operation that runs aligned modules of one structure.

    Raises:
        Unlowerable: there is none, or not with these settings; the message says for what.
    """
    kind = type(modules[0])
    if kind not in _TABLE or "forward" in vars(modules[0]):
        raise Unlowerable(f"no operation for {kind.__name__}")
    return _TABLE[kind](program, tuple(modules))


def tensor(run: Run, index: int | None) -> Tensor | None:
    """The joined tensor at ``index``; None for a layer that has none."""
    return None if index is None else run.tensors[index]


def after_lanes(dim: int) -> int:
    """A layer's axis in a tensor with the lanes first."""
    return dim if dim < 0 else dim + 1


def per_lane(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """``[L, *sizes]`` to be met by ``like`` ``[L, ...]``, the sizes from ``axis`` on."""
    before = axis - 1
    after = like.dim() - axis - (values.dim() - 1)
    return values.reshape(len(values), *[1] * before, *values.shape[1:], *[1] * after)
