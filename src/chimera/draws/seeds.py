"""Seeds that belong to paths and instances, and the generators that they feed.

A seed is derived by BLAKE2b (RFC 7693) of the seed given and of what it is for, so that what is
drawn for one path depends on nothing else: not on order, other modules, device or number.
"""

import hashlib
import operator
import random
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def derive(seed: int, *names: str | int) -> int:
    """A seed of 64 bits for what ``names`` name, such as a path, under ``seed``.

    Different names, and different splits of the same text into names, give unrelated seeds.

    Raises:
        TypeError: if ``seed`` is no integer.
    """
    parts = [str(as_seed(seed))]
    parts += [f"{type(name).__name__}:{len(str(name))}:{name}" for name in names]
    digest = hashlib.blake2b("\n".join(parts).encode(), digest_size=8, person=b"chimera")
    return int.from_bytes(digest.digest(), "big")


def as_seed(seed: Any) -> int:
    """``seed`` as an int.

    Raises:
        TypeError: if it is no integer.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an int; got {seed!r} of type {type(seed).__name__}")
    return operator.index(seed)


_WORDS = slice(3, 3 + 624)


def generator_state(seed: int) -> torch.Tensor:
    """The state of torch's CPU generator (a Mersenne twister) for a seed of 64 bits.

    ``torch.manual_seed`` reads 32 bits of a seed; here all of them reach the state, whose 624
    words are drawn from the seed by SHAKE-256 (FIPS 202). That they lie at ``_WORDS`` of the
    state, seen as int64, is torch's own affair.
    """
    state = torch.Generator("cpu").manual_seed(seed).get_state()
    words = hashlib.shake_256(f"chimera:{seed}".encode()).digest(4 * 624)
    drawn = struct.unpack("<624I", words)
    state.view(torch.int64)[_WORDS] = torch.tensor(drawn, dtype=torch.int64, device="cpu")
    return state


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Seed the global generators inside the block; leave them as they were after it.

    These are torch's on the CPU, Python's ``random``, NumPy's global state if NumPy is imported,
    and torch's on every CUDA device once CUDA is in use.
    """
    torch_state = torch.get_rng_state()
    python_state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        torch.set_rng_state(generator_state(seed))
        random.seed(seed)
        if numpy is not None:
            numpy.random.seed([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
        if cuda_states is not None:
            torch.cuda.manual_seed_all(seed)
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
