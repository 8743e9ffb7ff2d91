"""Which of torch's transforms a tensor belongs to: the members', or one of the module's own.

A module may itself call ``torch.vmap`` or ``torch.func.grad``. What a tensor inside of those says
of itself is said of their level, as it is where the module runs alone. The private names of torch
stand here; ``tests/decide/test_transforms.py`` tells when torch changes them. Without them
nothing is known, and nothing is answered.
"""

from __future__ import annotations

from torch import Tensor

try:
    from torch._C._functorch import (
        get_unwrapped,
        is_batchedtensor,
        maybe_current_level,
        maybe_get_level,
    )

    PRIVATE = True
except ImportError:  # another torch
    PRIVATE = False


def level() -> int:
    """How many transforms are running."""
    return (maybe_current_level() or 0) if PRIVATE else 0


def is_inside(tensor: Tensor, members: int) -> bool:
    """Whether a tensor belongs to a transform that began inside that of the level ``members``."""
    return PRIVATE and maybe_get_level(tensor) > members


def is_batched_inside(tensor: Tensor, members: int) -> bool:
    """Whether one of the transforms of ``is_inside`` is a ``vmap``, which refuses conversions."""
    while is_inside(tensor, members):
        if is_batchedtensor(tensor):
            return True
        tensor = get_unwrapped(tensor)
    return False


def is_dead(tensor: Tensor) -> bool:
    """Whether a tensor is of a transform that has ended, so that nothing can be done with it."""
    if not PRIVATE:
        return False
    own = maybe_get_level(tensor)
    return bool(own > level() or own == _ENDED)


_ENDED = -2  # what torch says of the level of a gradient's tensor after its transform
