"""The table of numeric settings: numbers of torch's layers that may differ between members.

A setting stands here when it enters what the layer computes as plain arithmetic and in no other
way, so that members that differ in its value alone stay in one group. Inside vmap the attribute
is then a ``PerMember``, and the class's numeric rule runs instead of its ``forward``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from chimera.stack.rules.table import Forward

Kind = Callable[[float], str]


class OwnNumber(TypeError):
    """A number that each member has of its own was used where only one for all can be."""


class PerMember:
    """A numeric setting inside vmap: ``tensor`` is the member's number, without axes, float64.

    ``values`` are those of all members of the group, whether they run now or not.
    What is no numeric rule cannot use it, and is told so instead of given another member's.
    """

    __slots__ = ("name", "refused", "tensor", "values")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, tensor: Tensor, values: Sequence[float]) -> None:
        self.name, self.tensor, self.values = name, tensor, values
        self.refused: OwnNumber | None = None

    def _refuse(self, *_: Any) -> NoReturn:
        self.refused = OwnNumber(
            f"the members have different values of {self.name}, and forward uses it outside of "
            "the layer itself"
        )
        raise self.refused

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            if isinstance(value, PerMember):
                value._refuse()
        raise OwnNumber("the members have different values of a setting that forward uses")

    __bool__ = __float__ = __int__ = __index__ = __str__ = __format__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = __abs__ = _refuse


@dataclass(frozen=True, slots=True)
class NumericRule:
    """How one kind of layer runs when members have settings of their own.

    Attributes:
        kinds: by the name of a setting, what tells values apart that take different ways.
        forward: runs instead of the layer's own ``forward``; finds settings with ``number``.
    """

    kinds: dict[str, Kind]
    forward: Forward


NUMERIC: dict[type[nn.Module], NumericRule] = {}


def numeric(kind: type[nn.Module], **kinds: Kind) -> Callable[[Forward], Forward]:
    """Register a function as the numeric rule of a class of layers, for these settings of it."""

    def register(forward: Forward) -> Forward:
        NUMERIC[kind] = NumericRule(kinds, forward)
        return forward

    return register


def numeric_rule_of(module: nn.Module) -> NumericRule | None:
    """The numeric rule of a module. Only its very class counts: a subclass may differ."""
    return NUMERIC.get(type(module))


def signed(value: float) -> str:
    """Negative numbers, zero and positive numbers are told apart."""
    return "negative" if value < 0 else "positive" if value > 0 else "zero"


def not_negative(value: float) -> str:
    """Negative numbers are told apart: torch refuses them, or some of what is done with them."""
    return "negative" if value < 0 else "not negative"


def any_number(value: float) -> str:
    """No number is told from another."""
    return "a number"


def chance(value: float) -> str:
    """What torch refuses as a probability is told apart."""
    return "from 0 to 1" if 0 <= value <= 1 else repr(float(value))


def number(module: nn.Module, name: str, like: Tensor) -> Any:
    """A setting as arithmetic with ``like`` uses it: a tensor without axes where members differ.

    Half-precision tensors are computed with in float32, as torch does; ``like`` is in that dtype.
    """
    value = getattr(module, name)
    return value.tensor.to(like.dtype) if isinstance(value, PerMember) else value


def exact(module: nn.Module, name: str) -> Any:
    """A setting in float64, for a factor that is rounded once."""
    value = getattr(module, name)
    return value.tensor if isinstance(value, PerMember) else value


def wide(x: Tensor) -> Tensor:
    """``x`` in the dtype in which torch computes with it: float32 for half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def refuse_autocast(module: nn.Module, x: Tensor) -> None:
    """Members run one by one where autocast would choose the dtype.

    Raises:
        NotImplementedError: autocast is on.
    """
    if torch.is_autocast_enabled(x.device.type):
        raise NotImplementedError(
            f"{type(module).__name__} whose settings differ runs one by one under autocast"
        )
