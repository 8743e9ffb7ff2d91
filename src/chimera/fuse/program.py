"""A program: what branches of one structure do, as operations on all of them at once.

``lower`` walks aligned modules (one a lane) and finds for each the operation that runs it. There
are two tables of them: ``LANES``, on values with a lane axis, of modules of one structure, is
filled by ``layers``, ``convolutions`` and ``nested``; ``BESIDE``, on values whose lanes stand side
by side, of modules that may differ in width, by ``beside_layers`` too. What has no operation is
``Unlowerable``: branches of one structure then run under ``torch.vmap`` (``vmapped``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from chimera.fuse.joint import Joint


class Unlowerable(Exception):
    """A module that no operation runs for all lanes at once."""


class Refused(Exception):
    """A call that the branches must run one by one; the message says why."""


@dataclass(slots=True)
class Run:
    """One call of a program.

    Attributes:
        tensors: of the joints, in their order.
        noises: what the active dropouts multiply by, in the order in which they run; without them
            each draws by itself.
        shapes: takes the shape and dtype that every active dropout meets, when a dry run asks.
        ways: takes how layers of different widths run, where they tell.
    """

    tensors: list[Tensor]
    noises: Iterator[Tensor] | None = None
    shapes: list[Met] | None = None
    ways: list[str] = field(default_factory=list)


Operation = Callable[[Any, Run], Any]
"""From the value of all lanes before a module, and the call, to that after it."""


@dataclass(frozen=True, slots=True)
class Met:
    """What an active dropout meets.

    Attributes:
        modules: one a lane.
        shape: of all lanes' value.
        dtype: of it.
        device: of it.
        widths: of the lanes, where they stand side by side.
        axis: along which they do.
    """

    modules: tuple[nn.Module, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    widths: tuple[int, ...] | None = None
    axis: int = 0

    def room(self) -> Tensor:
        """Memory for what the lanes are multiplied by."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)

    def parts(self, room: Tensor) -> Sequence[Tensor]:
        """The lanes' parts of ``room``."""
        return room.unbind(0) if self.widths is None else room.split(self.widths, self.axis)


@dataclass(slots=True)
class Program:
    """What branches do.

    Attributes:
        table: of the operations.
        joints: the parameters and buffers that it uses.
        moded: the modules whose mode matters, one tuple a layer.
        dropouts: one tuple a dropout, in the order in which a branch runs them.
        in_order: whether that order is known.
    """

    table: Table
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
Table = dict[type[nn.Module], Lower]
LANES: Table = {}
BESIDE: Table = {}


F = TypeVar("F", bound=Callable[..., Operation])


def lowers(*kinds: type[nn.Module], tables: Sequence[Table] = (LANES,)) -> Callable[[F], F]:
    """Register how aligned modules of some classes are lowered; a subclass may differ."""

    def register(function: F) -> F:
        for table in tables:
            table.update(dict.fromkeys(kinds, function))
        return function

    return register


def lower(program: Program, modules: Sequence[nn.Module]) -> Operation:
    """The operation that runs aligned modules.

    Raises:
        Unlowerable: there is none, or not with these settings; the message says for what.
    """
    kind = type(modules[0])
    if kind not in program.table or "forward" in vars(modules[0]):
        raise Unlowerable(f"no operation for {kind.__name__}")
    return program.table[kind](program, tuple(modules))


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
