"""Draws that torch does not know of: those of Python's ``random`` and of NumPy's global generator.

Such a number is drawn once for whatever runs as one, and is a constant of whatever is recorded.
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class DrawnOutside(Exception):
    """A module drew a number that torch does not know of."""


def states() -> tuple[Any, bytes]:
    """Where Python's generator and NumPy's stand, for ``drew``."""
    return random.getstate(), _words()


def drew(before: tuple[Any, bytes]) -> list[str]:
    """Whose numbers were drawn since the states ``before``."""
    found = [_PYTHON] if random.getstate() != before[0] else []
    return [*found, _NUMPY] if _words() != before[1] else found


@contextmanager
def none_outside() -> Iterator[None]:
    """Put back what drew inside of Python's generator and NumPy's, and raise.

    Raises:
        DrawnOutside: something drew.
    """
    before = states()
    yield
    found = drew(before)
    if _PYTHON in found:
        random.setstate(before[0])
    if _NUMPY in found:
        *key, place = memoryview(before[1]).cast("I")
        sys.modules["numpy"].random.set_state(("MT19937", key, place))
    if found:
        raise DrawnOutside(
            f"the module draws from {' and '.join(found)}, one number for all that run as one; "
            "torch.rand draws for each member"
        )


_PYTHON, _NUMPY = "Python's random", "numpy.random"

_WORDS = 624
"""Of 32 bits: the state of a Mersenne twister; the place in it follows."""


def _words() -> bytes:
    """The state of NumPy's global generator; nothing where it is no Mersenne twister.

    Read where it lies, since a copy by ``get_state`` takes as long as a small layer.
    """
    numpy: Any = sys.modules.get("numpy")
    generator: Any = numpy and numpy.random.get_bit_generator()
    if type(generator).__name__ != "MT19937":
        return b""
    return ctypes.string_at(generator.ctypes.state_address, 4 * (_WORDS + 1))
