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


@contextmanager
def none_outside() -> Iterator[None]:
    """Put back what drew inside of Python's generator and NumPy's, and raise.

    Raises:
        DrawnOutside: something drew.
    """
    numpy: Any = sys.modules.get("numpy")
    ours, theirs = random.getstate(), _words_of(numpy)
    yield
    drew = []
    if random.getstate() != ours:
        random.setstate(ours)
        drew.append("Python's random")
    if _words_of(numpy) != theirs:
        _put_back(numpy, theirs)
        drew.append("numpy.random")
    if drew:
        raise DrawnOutside(
            f"the module draws from {' and '.join(drew)}, one number for all that run as one; "
            "torch.rand draws for each member"
        )


_WORDS = 624
"""Of 32 bits: the state of a Mersenne twister; the place in it follows."""


def _words_of(numpy: Any) -> bytes:
    """The state of NumPy's global generator; nothing where it is no Mersenne twister.

    Read where it lies, since a copy by ``get_state`` takes as long as a small layer.
    """
    generator: Any = numpy and numpy.random.get_bit_generator()
    if type(generator).__name__ != "MT19937":
        return b""
    return ctypes.string_at(generator.ctypes.state_address, 4 * (_WORDS + 1))


def _put_back(numpy: Any, words: bytes) -> None:
    *key, place = memoryview(words).cast("I")
    numpy.random.set_state(("MT19937", key, place))
