"""Counter-based random numbers: a pure function of a key and of a position, on any device.

The generator is Squares (B. Widynski, "Squares: A Fast Counter-Based RNG", arXiv:2004.06278,
section 4: the five-round variant of 64 bits), in int64 tensor arithmetic, whose multiplication
and addition wrap as the method needs. A row of a result depends on its own key and on its length
alone, so that a member draws the same numbers whatever stands beside it.

Shapes: keys ``[K]`` of int64; results ``[K, *shape]``.
"""

import functools
import hashlib
import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Inexact, Int64
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd constant of splitmix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def member_keys(
    seed: int, members: Iterable[int], device: torch.device | None = None
) -> Int64[Tensor, " members"]:
    """One 64-bit key ``[members]`` for each member id, from a hash of (seed, id)."""
    return torch.tensor(_hashes(seed, tuple(members)), dtype=torch.int64, device=device)


@functools.lru_cache(maxsize=64)
def _hashes(seed: int, members: tuple[int, ...]) -> list[int]:
    return [_hash(seed, member) for member in members]


def _hash(*parts: int) -> int:
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def derive(keys: Int64[Tensor, " K"], *parts: int | Tensor) -> Int64[Tensor, " K"]:
    """Keys ``[K]`` for a use of ``keys`` named by ``parts`` (a step, the place of a draw, ...).

    The finalizer of splitmix64 mixes each part in; the result is odd, as Squares needs.
    """
    for part in parts:
        if isinstance(part, Tensor):
            keys = _mix(keys + (part + 1) * _GOLDEN)
        else:
            keys = _mix(keys + _wrap((part + 1) * _GOLDEN))
    return keys | 1


def _wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """A logical right shift."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def bits64(keys: Int64[Tensor, " K"], count: int) -> Int64[Tensor, "K {count}"]:
    """``[K, count]`` int64, all 64 bits random."""
    key = keys.unsqueeze(1)
    y = torch.arange(count, dtype=torch.int64, device=keys.device) * key
    z = y + key
    x = _turn(torch.addcmul(y, y, y))
    x = _turn(torch.addcmul(z, x, x))
    x = _turn(torch.addcmul(y, x, x))
    t = torch.addcmul(z, x, x)
    x = _turn(t)
    return t.bitwise_xor_(_shift(torch.addcmul(y, x, x), 32))


def bits32(keys: Int64[Tensor, " K"], count: int) -> Int64[Tensor, "K {count}"]:
    """``[K, count]`` int64 in [0, 2**32): the four-round variant of Squares."""
    key = keys.unsqueeze(1)
    y = torch.arange(count, dtype=torch.int64, device=keys.device) * key
    z = y + key
    x = _turn(torch.addcmul(y, y, y))
    x = _turn(torch.addcmul(z, x, x))
    x = _turn(torch.addcmul(y, x, x))
    return _shift(torch.addcmul(z, x, x), 32)


def _turn(x: Tensor) -> Tensor:
    """Swap the halves of every 64-bit number."""
    return (x << 32).bitwise_or_(_shift(x, 32))


def uniform(
    keys: Int64[Tensor, " K"], shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Inexact[Tensor, "K ..."]:
    """``[K, *shape]`` uniform in [0, 1): as many random bits as the dtype's fraction holds.

    A number of one dtype is that of another, cut off. A complex number has two of them.
    """
    if dtype.is_complex:
        return torch.view_as_complex(uniform(keys, (*shape, 2), dtype.to_real()))
    keep = 1 - round(math.log2(torch.finfo(dtype).eps))
    numbers = _shift(bits64(keys, math.prod(shape)), 64 - keep).to(dtype) * 2.0**-keep
    return numbers.view(len(keys), *shape)


def bernoulli(
    keys: Int64[Tensor, " K"], probability: Tensor | float, shape: Sequence[int]
) -> Bool[Tensor, "K ..."]:
    """``[K, *shape]`` bool, true with ``probability`` (a number or a tensor of that shape)."""
    numbers = bits32(keys, math.prod(shape)).view(len(keys), *shape)
    if isinstance(probability, Tensor):
        return numbers < (probability.double() * 2.0**32).round()
    return numbers < round(probability * 2**32)


def normal(
    keys: Int64[Tensor, " K"], shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Inexact[Tensor, "K ..."]:
    """``[K, *shape]`` standard normal (Box and Muller), computed in float64 and rounded.

    So a vector unit that rounds a logarithm differently at the end of a row changes nothing. A
    complex number is of variance 1, half of it in each part.
    """
    if dtype.is_complex:
        parts = normal(keys, (*shape, 2), dtype.to_real())
        return torch.view_as_complex(parts.mul_(math.sqrt(0.5)))
    bits = bits64(keys, math.prod(shape))
    radius = ((_shift(bits, 32).double() + 1) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFFFFFF).double().mul_(2.0**-32 * 2 * math.pi).cos_()
    return radius.mul_(angle).to(dtype).view(len(keys), *shape)


def exponential(
    keys: Int64[Tensor, " K"], shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "K ..."]:
    """``[K, *shape]`` exponential of rate 1, never 0."""
    bits = _shift(bits64(keys, math.prod(shape)), 11)
    numbers = ((bits.double() + 0.5) * 2.0**-53).log_().neg_()
    return numbers.to(dtype).view(len(keys), *shape)


def integers(
    keys: Int64[Tensor, " K"], low: int, high: int, shape: Sequence[int]
) -> Int64[Tensor, "K ..."]:
    """``[K, *shape]`` int64 uniform in [low, high).

    63 random bits modulo the width: the bias is below width / 2**63. Of a width that does not
    fit in them, 64 bits, modulo the width as torch takes them.
    """
    width = high - low
    if width >= 2**63:
        bits = bits64(keys, math.prod(shape))
        beyond = (bits ^ _wrap(2**63)) >= _wrap(width + 2**63)  # compared without the sign
        numbers = torch.where(beyond, bits - _wrap(width), bits) + low
        return numbers.view(len(keys), *shape)
    numbers = _shift(bits64(keys, math.prod(shape)), 1)
    return (numbers % width + low).view(len(keys), *shape)


def permutations(keys: Int64[Tensor, " K"], length: int) -> Int64[Tensor, "K {length}"]:
    """``[K, length]`` int64: a permutation of 0 .. length-1 for each key."""
    return bits64(keys, length).argsort(dim=1, stable=True)
