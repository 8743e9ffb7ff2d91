"""Option values: whole numbers with a least value, a learning rate or a range of them, shapes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import Token

from chimera.cli.mistake import Mistake

WholeNumber = Callable[[Any, Sequence[Token]], int]


def whole(least: int | None = None) -> WholeNumber:
    """A converter of an option to an int of at least ``least``; ``2.5`` and ``1e3`` are none."""

    def convert(_: Any, tokens: Sequence[Token]) -> int:
        text = tokens[0].value
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"expected a whole number, got {text!r}") from None
        if least is not None and number < least:
            raise ValueError(f"expected a whole number of at least {least}, got {text}")
        return number

    return convert


def rates(text: str) -> float | tuple[float, float]:
    """``--lr``: one learning rate, or the low and high end of a range.

    Raises:
        Mistake: ``text`` is neither a number nor two numbers LOW:HIGH with 0 < LOW <= HIGH.
    """
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 < number < math.inf for number in numbers):
        raise Mistake(
            f"--lr: expected a number above 0 or a range LOW:HIGH such as 1e-4:1e-1, got {text!r}"
        )
    if len(numbers) == 1:
        return numbers[0]
    low, high = numbers
    if low > high:
        raise Mistake(f"--lr: expected LOW:HIGH with LOW not above HIGH, got {text!r}")
    return low, high


def shape(text: str) -> tuple[int | str, ...]:
    """``--input``: the sizes of a tensor's axes, ``2,20``; a name is a free axis, ``batch,20``.

    Raises:
        Mistake: an axis is neither a whole number above 0 nor a name.
    """
    axes = tuple(part.strip() for part in text.split(","))
    for axis in axes:
        if not axis.isidentifier() and not (axis.isdecimal() and int(axis) > 0):
            raise Mistake(
                f"--input: expected sizes or names such as 2,20 or batch,20, got {text!r}, "
                f"in which {axis!r} is neither"
            )
    return tuple(int(axis) if axis.isdecimal() else axis for axis in axes)
