"""``torch.empty`` inside of ``torch.vmap``: memory of each member's own.

torch makes one for all members, and then refuses to fill it with what differs between them, as the
distributions of ``torch.distributions`` do with their draws.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chimera.stack.rules.functions import replaces
from chimera.stack.rules.together import of_each


@replaces(torch.empty)
def empty(*size: Any, **options: Any) -> Tensor:
    """``torch.empty``."""
    shape = options.pop("size", size)
    if len(shape) == 1 and not isinstance(shape[0], int):
        (shape,) = shape
    plain = options.get("out") is None and not options.get("pin_memory")
    found = of_each(lambda n: torch.empty((n, *shape), **options)) if plain else None
    return torch.empty(*shape, **options) if found is None else found
