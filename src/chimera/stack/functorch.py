"""torch's names behind ``torch.func``: what they are and whether they are there, in one place.

``over_members`` is ``torch.vmap`` of a function of flat tensors, member axis first: torch's own
searches nested arguments and results, which costs more than a small layer. ``tests/stack/
test_functorch.py`` tells when torch changes the names; without them the public ways are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

try:
    from torch._C._functorch import (
        _add_batch_dim,
        _remove_batch_dim,
        _vmap_decrement_nesting,
        _vmap_increment_nesting,
    )
    from torch._functorch.vmap import (  # type: ignore[attr-defined]
        lazy_load_decompositions,
    )

    PRIVATE = True
except ImportError:  # another torch: the public way serves
    PRIVATE = False


def over_members(
    function: Callable[..., tuple[Tensor, ...]],
    tensors: Sequence[Tensor],
    size: int,
    *,
    randomness: str,
    public: bool,
) -> tuple[Tensor, ...]:
    """What ``function`` gives of each member's tensors, with the member axis first.

    Args:
        function: of one member's tensors; gives a tuple of tensors.
        tensors: ``[members, ...]``.
        size: the number of members.
        randomness: as ``torch.vmap`` takes it.
        public: take ``torch.vmap`` itself, which refuses more.
    """
    if public or not PRIVATE or torch.compiler.is_compiling():
        # The last argument has nothing to say but how many members there are: others may have none.
        batched = torch.vmap(lambda *flat: function(*flat[:-1]), randomness=randomness)
        found: tuple[Tensor, ...] = batched(*tensors, torch.empty(size))
        return found
    lazy_load_decompositions()
    level = _vmap_increment_nesting(size, randomness)
    try:
        flat = [_add_batch_dim(tensor, 0, level) for tensor in tensors]
        return tuple(_remove_batch_dim(out, level, size, 0) for out in function(*flat))
    finally:
        _vmap_decrement_nesting()
