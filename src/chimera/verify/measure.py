"""How far apart two correct computations may be.

The error of a stack against a float64 loop is at most 4 times that of the loop in the stack's own
dtype, never held below 8 units in the last place of the tensor's largest value (1e-6 of it in
float32), nor below 20 times what one unit in the last place of weights and inputs does to the
loop itself, since a network may be chaotic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OWN = 4.0
UNITS = 8.0
NUDGES = 20.0
FLOAT64 = 1e-10


@dataclass(frozen=True, slots=True)
class Comparison:
    """One tensor of the stack against the loop.

    Attributes:
        kind: ``"output"``, ``"input gradient"``, ``"gradient"``, ``"buffer"``; after whole
            training runs ``"loss"``, ``"trained parameter"``, ``"trained buffer"``.
        name: of the output, or the path.
        error: the largest absolute difference over all members.
        tolerance: how large it may be.
        member: position of the member with the largest difference; None for what members share.
    """

    kind: str
    name: str
    error: float
    tolerance: float
    member: int | None

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance; one that is no number is not."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        where = "" if self.member is None else f", member {self.member}"
        verdict = "ok" if self.ok else "WRONG"
        return (
            f"{verdict:5}  {self.kind} {self.name}{where}: "
            f"error {self.error:.2e}, allowed {self.tolerance:.2e}"
        )


@dataclass(frozen=True, slots=True)
class Runs:
    """One tensor as four computations gave it, on the CPU in float64.

    Attributes:
        stack: by the stack.
        loop: by the members alone, in the stack's dtype.
        exact: by the members alone, in float64; the same as ``loop`` for a stack in float64.
        nudged: as ``loop``, from weights and inputs off by one unit in the last place.
        unit: one unit in the last place of 1 in the stack's dtype.
    """

    stack: Tensor
    loop: Tensor
    exact: Tensor
    nudged: Tensor
    unit: float

    def compare(self, kind: str, name: str, *, by_member: bool) -> Comparison:
        """The stack against the loop; ``by_member`` says that the first axis is the members'."""
        if self.stack.shape != self.exact.shape:
            return Comparison(kind, f"{name} (shape)", float("inf"), 0.0, None)
        apart = _apart(self.stack, self.exact)
        tolerance = max(
            OWN * _largest(_apart(self.loop, self.exact)),
            max(UNITS * self.unit, FLOAT64 if self.unit < 1e-12 else 0.0)
            * _largest(self.exact.abs().nan_to_num(0, 0, 0)),
            NUDGES * _largest(_apart(self.nudged, self.loop)),
        )
        return Comparison(kind, name, _largest(apart), tolerance, _member(apart, by_member))


def relative(kind: str, name: str, stack: Tensor, loop: Tensor, rtol: float) -> Comparison:
    """A tensor ``[members, ...]`` after whole runs in float64."""
    stack, loop = real(stack), real(loop)
    apart = _apart(stack.double(), loop.double())
    return Comparison(
        kind, name, _largest(apart), rtol * _largest(loop.double().abs()), _member(apart, True)
    )


def real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers; any other as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Absolute differences; two infinities of one sign, and two NaN, are no distance apart."""
    same = (one == other) | (one.isnan() & other.isnan())
    return torch.where(same, torch.zeros((), dtype=one.dtype), (one - other).abs())


def _largest(tensor: Tensor) -> float:
    return float(tensor.max()) if tensor.numel() else 0.0


def _member(apart: Tensor, by_member: bool) -> int | None:
    if not by_member or apart.numel() == 0:
        return None
    return int(apart.reshape(len(apart), -1).nan_to_num(float("inf")).max(dim=1).values.argmax())
