"""A hyper-parameter of members: one number for all of them, or one per member.

Contract: values are float64 on the host until they are used, so that what is computed from them
(``1 - lr * weight_decay``) is rounded once, as ``torch.optim`` does with Python numbers.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Range:
    """What values a hyper-parameter may have: from ``low``, and below ``high``."""

    low: float = 0.0
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value < self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return "finite" if math.isinf(self.low) else f"{self.low:g} or more, and finite"
        return f"from {self.low:g} to below {self.high:g}"


class Setting:
    """A hyper-parameter.

    Args:
        name: for messages.
        value: a number, or a list, tuple, array or tensor of one per member.
        members: how many members there are.
        allowed: the range.

    Attributes:
        value: a float, or a tensor ``[members]`` of float64 on the CPU.

    Raises:
        TypeError: neither a number nor numbers.
        ValueError: a wrong length, or a value out of range; the member is named.
    """

    value: float | Tensor

    def __init__(self, name: str, value: Any, members: int, allowed: Range) -> None:
        self.name, self.members, self.allowed = name, members, allowed
        self.value = self._parsed(value, members, "the stack has {} members")
        self._check(self.value, range(members))

    @property
    def per_member(self) -> bool:
        """Whether there is one value per member."""
        return isinstance(self.value, Tensor)

    @property
    def zero(self) -> bool:
        """Whether it is the number zero for all members."""
        return not isinstance(self.value, Tensor) and self.value == 0

    @property
    def number(self) -> float:
        """The value where it is one for all members."""
        assert isinstance(self.value, float), f"{self.name} is one per member"
        return self.value

    def values(self) -> Tensor:
        """One value per member ``[members]``, float64."""
        if isinstance(self.value, Tensor):
            return self.value
        return torch.full((self.members,), self.value, dtype=torch.float64)

    def plain(self) -> float | list[float]:
        """A float, or a list of them."""
        return self.value.tolist() if isinstance(self.value, Tensor) else self.value

    def changed(self, value: Any, positions: list[int] | None) -> float | Tensor:
        """What ``value`` would be with new values, for all members or those at ``positions``.

        Raises:
            TypeError, ValueError: as when it was made.
        """
        if positions is None:
            new = self._parsed(value, self.members, "the stack has {} members")
            self._check(new, range(self.members))
            return new
        part = self._parsed(value, len(positions), "members= names {}")
        self._check(part, positions)
        new = self.values().clone()
        new[torch.tensor(positions, dtype=torch.int64)] = torch.as_tensor(part, dtype=torch.float64)
        return new

    def _parsed(self, value: Any, count: int, said: str) -> float | Tensor:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        try:
            if isinstance(value, str | bytes | bool):
                raise TypeError
            given = torch.as_tensor(value)
            if given.dtype == torch.bool or given.is_complex():
                raise TypeError
            if not isinstance(value, Tensor):  # a list of Python's floats would come as float32
                given = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"{self.name} is a number or one per member; got {value!r:.60} "
                f"({type(value).__name__})."
            ) from None
        if given.dim() == 0:
            return float(given)
        if given.shape != (count,):
            came = f"{len(given)} values" if given.dim() == 1 else f"shape {tuple(given.shape)}"
            raise ValueError(
                f"{self.name} is a number or one per member: {said.format(count)}, {came} came."
            )
        return given.detach().to("cpu", torch.float64, copy=True)

    def _check(self, value: float | Tensor, positions: Any) -> None:
        if isinstance(value, float):
            if value not in self.allowed:
                raise ValueError(f"{self.name} is {self.allowed}; got {value:g}.")
            return
        for position, one in zip(positions, value.tolist(), strict=True):
            if one not in self.allowed:
                raise ValueError(
                    f"{self.name} of member {position} is {one:g}; it must be {self.allowed}."
                )
