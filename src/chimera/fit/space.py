"""Hyper-parameters per member: drawn from a range, given one by one, or one for all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from chimera.draws.counter import derive, member_keys, uniform


@dataclass(frozen=True)
class LogUniform:
    """A range whose logarithm is drawn evenly: as likely between 1e-4 and 1e-3 as 1e-3 and 1e-2.

    Args:
        low: the smallest value, above 0.
        high: the largest value, not below ``low``.

    Raises:
        TypeError: a bound is no number.
        ValueError: a bound is not finite, ``low`` is not above 0 or ``high`` is below ``low``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        for name, bound in (("low", self.low), ("high", self.high)):
            if isinstance(bound, bool) or not isinstance(bound, (int, float)):
                raise TypeError(f"LogUniform: {name} must be a number, got {bound!r}")
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(
                f"LogUniform: expected 0 < low <= high, both finite, got low={self.low!r} "
                f"and high={self.high!r}"
            )

    def draw(self, name: str, seed: int, members: Sequence[int]) -> Float64[Tensor, " members"]:
        """One value a member, float64 [members], decided by the name, the seed and the member id.

        Members beside it change nothing.
        """
        keys = derive(member_keys(seed, members), int.from_bytes(name.encode(), "little"))
        share = uniform(keys, (), torch.float64)
        low, high = math.log(self.low), math.log(self.high)
        return torch.exp(low + (high - low) * share).clamp(self.low, self.high)


def per_member(
    name: str,
    value: float | Sequence[float] | Tensor | LogUniform,
    seed: int,
    members: Sequence[int],
) -> Tensor:
    """The values of one hyper-parameter, float64 [members] on the CPU.

    Raises:
        TypeError: ``value`` is neither a number, a sequence or tensor of numbers nor a LogUniform.
        ValueError: as many values as members were expected, or a value is negative or not finite.
    """
    if isinstance(value, LogUniform):
        return value.draw(name, seed, members)
    try:
        values = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a number, one number per member or a LogUniform, "
            f"got {type(value).__name__} {value!r}"
        ) from error
    if values.dim() == 0:
        values = values.repeat(len(members))
    if values.shape != (len(members),):
        raise ValueError(
            f"{name}: {len(members)} members need one number or {len(members)} numbers, "
            f"got shape {list(values.shape)}"
        )
    wrong = ~(values.isfinite() & (values >= 0))
    if wrong.any():
        member = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} must be finite and not negative, got {values[member].item()!r} "
            f"for member {member}"
        )
    return values
